"""What the server answers and refuses, as an OpenAPI document: ``/openapi.json``.

>>> document(ServeConfig(), ["intent"], tokens=False)["openapi"]  # doctest: +SKIP
'3.1.0'
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from burnish_serve.http.config import ServeConfig

TEXT = {"type": "string"}
REFUSED = {
    "400": "The body means nothing, or more than one thing",
    "401": "A bearer token is missing or wrong",
    "404": "There is no such model",
    "408": "The request takes too long to come",
    "413": "A limit is exceeded",
    "415": "Compressed, or of another media type",
    "422": "The model does not read that",
    "429": "More waits than may; Retry-After says when to come again",
    "431": "The head is too large",
    "500": "It could not be answered",
    "503": "Bundles are being loaded, or the server is ending",
    "504": "The deadline has passed",
}


def document(config: ServeConfig, names: Sequence[str], *, tokens: bool) -> dict[str, Any]:
    """Return the document, with the limits of a server.

    Args:
        config: its settings.
        names: of its models.
        tokens: whether requests must bring one.
    """
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": list(names)}, "description": "A model"}
    model = {"enum": [*names, None], "description": "The first one where none is named"}
    rows = {
        "type": "array",
        "maxItems": config.max_texts,
        "items": {"oneOf": [TEXT, {"type": "object", "additionalProperties": True}]},
        "description": "Texts, or rows with the columns that the task reads",
    }
    tensor = _object(
        {
            "name": TEXT,
            "datatype": TEXT,
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
        required=["name", "datatype", "shape"],
    )
    inference = _object(
        {
            "id": TEXT,
            "inputs": {"type": "array", "items": tensor},
            "outputs": {"type": "array", "items": _object({"name": TEXT, "parameters": {"type": "object"}})},
            "parameters": {"type": "object"},
        },
        required=["inputs"],
    )
    inferred = _object({"model_name": TEXT, "model_version": TEXT, "id": TEXT, "outputs": {"type": "array"}})
    infer = "/v2/models/{name}"
    paths: dict[str, Any] = {
        "/v1/predict": _posted(
            "Answer rows as they stand in files",
            _object({"rows": rows, "options": {"type": ["object", "null"]}, "model": model}, required=["rows"]),
            _object({"model": TEXT, "answers": {"type": "array"}, "truncated": {"type": "array"}}),
        ),
        "/v1/models": _got("The models, and what can be asked of each", _object({"models": {"type": "array"}})),
        f"{infer}/infer": _posted("Answer tensors (Open Inference Protocol)", inference, inferred, [name]),
        infer: _got("What a model reads and gives", {"type": "object"}, [name]),
        f"{infer}/ready": _got("Whether a model answers", {"type": "object"}, [name]),
        "/v2": _got("Who we are", {"type": "object"}),
        "/v2/health/live": _got("Whether we live", {"type": "object"}),
        "/v2/health/ready": _got("Whether all models answer", {"type": "object"}),
        "/predict": _posted(
            "Answer as text-embeddings-inference does",
            _object({"inputs": {"oneOf": [TEXT, {"type": "array"}]}}, required=["inputs"]),
            {"type": "array"},
        ),
        "/info": _got("What text-embeddings-inference tells of its model", {"type": "object"}),
    }
    security: dict[str, Any] = {"security": [{"bearer": []}]} if tokens else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Burnish", "version": version("burnish")},
        "paths": paths,
        "components": {
            "schemas": {"Refusal": _object({"error": TEXT, "code": TEXT}, required=["error", "code"])},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        **security,
    }


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    refusal = _content({"$ref": "#/components/schemas/Refusal"})
    refused = {status: {"description": text, **refusal} for status, text in REFUSED.items()}
    # Health answers its own body with 503.
    refused["503"]["content"] = {"application/json": {"schema": {"type": "object"}}}
    return {"200": {"description": "The answer", **_content(schema)}, **refused}


def _got(summary: str, schema: dict[str, Any], parameters: list[Any] | None = None) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": _responses(schema)}}


def _posted(
    summary: str, body: dict[str, Any], schema: dict[str, Any], parameters: list[Any] | None = None
) -> dict[str, Any]:
    return {
        "post": {
            "summary": summary,
            "parameters": parameters or [],
            "requestBody": {"required": True, **_content(body)},
            "responses": _responses(schema),
        }
    }
