"""The Open Inference Protocol, version 2, over REST, with its binary tensors: what KServe and tritonclient speak.

A row is one element of each input tensor: ``text``, or the columns that the task reads, all BYTES. Out come ``answer``,
the whole answer as JSON, and for tasks whose answers are labels also ``label`` and ``score`` of the best.

https://github.com/kserve/open-inference-protocol and Triton's extension for binary tensors
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from burnish_serve.http.reading import strict_json
from burnish_serve.http.refusal import Refusal
from burnish_serve.tasks import Answer, Task

BINARY_SIZE = "inference-header-content-length"
# Parameters of a request that clients send by themselves, and that ask nothing of a task.
PARAMETERS_OF_OTHERS = {"binary_data_output", "content_type", "priority", "timeout"}


TEXTS = frozenset({"text", "text_a", "text_b", "question", "context"})


class Asked(NamedTuple):
    """A request, read."""

    id: str | None
    rows: list[dict[str, str]]
    outputs: dict[str, bool]
    """Names of the tensors that are wanted, and whether as bytes."""
    options: dict[str, Any]


def outputs_of(task: Task) -> dict[str, str]:
    """Return the tensors that a task's answers give, with their types."""
    labels = {"label": "BYTES", "score": "FP32"} if task.pipeline == "text-classification" else {}
    return {**labels, "answer": "BYTES"}


def columns_of(task: Task) -> list[str]:
    """Return the columns of text that a task reads; what is no text is no tensor of bytes."""
    return list(dict.fromkeys(column for some in task.columns if TEXTS.issuperset(some) for column in some))


def read_by(task: Task, *, pairs: bool) -> list[str]:
    """Return the columns of text that a model reads: of one text or of a pair where its task has both."""
    known = columns_of(task)
    return [column for column in known if (column == "text") is not pairs] if "text" in known else known


def metadata(name: str, task: Task, *, pairs: bool) -> dict[str, Any]:
    """Return what a model reads and gives."""
    columns = read_by(task, pairs=pairs)
    return {
        "name": name,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": column, "datatype": "BYTES", "shape": [-1]} for column in columns],
        "outputs": [{"name": key, "datatype": kind, "shape": [-1]} for key, kind in outputs_of(task).items()],
    }


def read(body: bytes, header_length: str | None, task: Task, *, pairs: bool) -> Asked:
    """Return what a request asks.

    Args:
        body: JSON, with the bytes of tensors behind it where there are any.
        header_length: how many bytes of it are JSON, as the header of that name says.
        task: what the model answers.
        pairs: whether the model was made for pairs of texts.

    Raises:
        Refusal: it is not a request of the protocol, or not for such a model (400).
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length[:20]) > len(body):
            raise _wrong("Inference-Header-Content-Length must be a number of bytes of the body")
        length = int(header_length)
    request, tail = strict_json(body[:length]), memoryview(body)[length:]
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise _wrong("the body must be an object with a list of inputs")
    if not isinstance(request.get("id"), str | None):
        raise _wrong("id must be text")
    columns: dict[str, list[str]] = {}
    for tensor in request["inputs"]:
        name, values, tail = _tensor(tensor, tail)
        if name in columns:
            raise _wrong("an input is named twice")
        columns[name] = values
    if len(tail):
        raise _wrong("there are bytes behind the last tensor")
    if not columns or set(columns) - set(columns_of(task)):
        raise _wrong(f"the inputs are: {', '.join(read_by(task, pairs=pairs))}")
    if len({len(values) for values in columns.values()}) > 1:
        raise _wrong("the inputs must be of the same length")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    parameters = _parameters(request)
    return Asked(
        request.get("id"),
        rows,
        _wanted(request, task, default=bool(parameters.get("binary_data_output", False))),
        {name: value for name, value in parameters.items() if name not in PARAMETERS_OF_OTHERS},
    )


def write(name: str, asked: Asked, answers: Sequence[Answer], task: Task) -> tuple[bytes, dict[str, str]]:
    """Return the body of a response, and its headers."""
    tensors: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for output, binary in asked.outputs.items():
        kind = outputs_of(task)[output]
        values = [_value(output, answer) for answer in answers]
        tensor: dict[str, Any] = {"name": output, "datatype": kind, "shape": [len(values)]}
        if binary:
            raw = _packed(kind, values)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            tensor["data"] = values
        tensors.append(tensor)
    head = {"model_name": name, "model_version": "1", **({"id": asked.id} if asked.id is not None else {})}
    body = json.dumps({**head, "outputs": tensors}, ensure_ascii=False, separators=(",", ":")).encode()
    if not tail:
        return body, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(body))}
    return b"".join([body, *tail]), headers


def _tensor(tensor: Any, tail: memoryview) -> tuple[str, list[str], memoryview]:
    """Return the name and the elements of an input, and the bytes behind its own."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise _wrong("an input must be an object with a name")
    if tensor.get("datatype") != "BYTES":
        raise _wrong("inputs must be of the datatype BYTES")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or shape[1:] not in ([], [1]) or type(next(iter(shape), None)) is not int:
        raise _wrong("the shape of an input must be [rows] or [rows, 1]")
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        values = tensor.get("data")
        if isinstance(values, list) and len(shape) == 2:
            values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
    elif type(size) is not int or not 0 <= size <= len(tail):
        raise _wrong("binary_data_size must be a number of bytes of the body")
    else:
        values, tail = _unpacked(tail[:size]), tail[size:]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _wrong("the data of an input must be a list of texts")
    if len(values) != shape[0]:
        raise _wrong("the shape of an input must be that of its data")
    return tensor["name"], values, tail


def _parameters(holder: Mapping[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _wrong("parameters must be an object")
    return parameters


def _wanted(request: Mapping[str, Any], task: Task, *, default: bool) -> dict[str, bool]:
    """Return the outputs that a request asks for, all where it names none, and whether as bytes."""
    known = outputs_of(task)
    wanted = request.get("outputs")
    if wanted is None or wanted == []:
        return dict.fromkeys(known, default)
    if not isinstance(wanted, list) or not all(isinstance(one, dict) and one.get("name") in known for one in wanted):
        raise _wrong(f"the outputs are: {', '.join(known)}")
    if any("classification" in _parameters(one) for one in wanted):
        raise _wrong("classification is no parameter here: options stand under the request's parameters, as top_k")
    return {one["name"]: bool(_parameters(one).get("binary_data", default)) for one in wanted}


def _value(output: str, answer: Answer) -> Any:
    """Return an output of one row."""
    if output == "answer":
        return json.dumps(answer, ensure_ascii=False)
    best = answer if isinstance(answer, dict) else next(iter(answer), {})
    return best.get("label", "") if output == "label" else float(best.get("score", 0.0))


def _packed(kind: str, values: Sequence[Any]) -> bytes:
    """Return the bytes of a tensor: float32, or texts in UTF-8 with their length before each, little-endian."""
    if kind == "FP32":
        return struct.pack(f"<{len(values)}f", *values)
    texts = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _unpacked(raw: memoryview) -> list[str]:
    """Return the texts of a tensor."""
    texts = []
    while len(raw):
        size = struct.unpack_from("<I", raw)[0] if len(raw) >= 4 else len(raw)
        if len(raw) < 4 + size:
            raise _wrong("the bytes of an input end within an element")
        try:
            texts.append(str(raw[4 : 4 + size], "utf-8"))
        except UnicodeDecodeError as error:
            raise Refusal(400, "bad_unicode", "an element is not UTF-8") from error
        raw = raw[4 + size :]
    return texts


def _wrong(message: str) -> Refusal:
    return Refusal(400, "bad_request", message)
