"""The server's addresses: what can be asked of the models, and of the server itself.

>>> app = App({"intent": model}, config, metrics)  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from burnish_serve.http import inference
from burnish_serve.http.config import ServeConfig
from burnish_serve.http.door import Door, route
from burnish_serve.http.metrics import CONTENT_TYPE, Metrics
from burnish_serve.http.model import Model
from burnish_serve.http.openapi import document
from burnish_serve.http.page import page
from burnish_serve.http.protocol import LOST
from burnish_serve.http.reading import BINARY, JSON, read_body, strict_json
from burnish_serve.http.refusal import Refusal
from burnish_serve.http.waiting import Answered

# Whoever may not ask may still see whether we live, as probes do, and where he would have to say who he is.
OPEN = {"/", "/openapi.json", "/v2/health/live", "/v2/health/ready"}


class App(Door):
    """The ASGI application: its addresses.

    Args:
        models: by name; the first is asked where a request names none.
        config: limits.
        metrics: figures.
        tokens: of which a request must bring one; None lets everybody in.
        reload: opens the bundles again and returns why each was not replaced, None where it was; makes this the
            application of the admin port.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        config: ServeConfig,
        metrics: Metrics,
        tokens: Sequence[str] | None = None,
        reload: Callable[[], Awaitable[Mapping[str, str | None]]] | None = None,
    ) -> None:
        self.models = dict(models)
        self.config = config
        self._reload = reload
        health = [route("/v2/health/live", self.live), route("/v2/health/ready", self.ready)]
        figures = [route("/metrics", self.figures)]
        if reload is not None:
            routes = [*health, *figures, route("/v1/reload", self.reload, post=True)]
        else:
            routes = [*self._answering(), *health, *(figures if config.admin_port is None else [])]
        free = OPEN if reload is None else OPEN | {"/metrics"}
        super().__init__(Router(routes, redirect_slashes=False), metrics, tokens, free)

    def _answering(self) -> list[Route]:
        infer = ["/v2/models/{name}", "/v2/models/{name}/versions/1"]
        return [
            route("/", self.page),
            route("/openapi.json", self.openapi),
            route("/v1/models", self.known),
            route("/v1/predict", self.predict, post=True),
            route("/predict", self.predict_tei, post=True),
            *(route(f"{path}/infer", self.infer, post=True) for path in infer),
            route("/info", self.info),
            route("/v2", self.server),
            *(route(f"{path}/ready", self.model_ready) for path in infer),
            *(route(path, self.model) for path in infer),
        ]

    # Addresses

    async def predict(self, request: Request) -> Response:
        """Answer rows as they stand in files: ``{"rows": […], "options": {…}, "model": …}``."""
        body = await self._json(request)
        if not isinstance(body, dict) or not isinstance(body.get("rows"), list):
            raise Refusal(400, "bad_request", "the body must be an object with a list of rows")
        model = self._model(body.get("model"))
        answered = await self._listened(request, model, body["rows"], body.get("options"))
        cut = {"truncated": answered.truncated} if answered.truncated else {}
        return _json({"model": model.name, "answers": answered.answers, **cut})

    async def known(self, request: Request) -> Response:
        """Return the models, and what can be asked of each."""
        return _json({"models": [_told(model) for model in self.models.values()]})

    async def page(self, request: Request) -> Response:
        """Return the page to try a model on."""
        content, headers = page()
        return Response(content, headers=headers)

    async def openapi(self, request: Request) -> Response:
        """Return what all of this is, as OpenAPI has it."""
        return _json(document(self.config, list(self.models), tokens=self._tokens is not None))

    async def predict_tei(self, request: Request) -> Response:
        """Answer as text-embeddings-inference does: ``{"inputs": text, [one, other] or [[…], …]}``."""
        body = await self._json(request)
        inputs = body.get("inputs") if isinstance(body, dict) else None
        alone = isinstance(inputs, str) or (
            isinstance(inputs, list) and len(inputs) == 2 and all(isinstance(one, str) for one in inputs)
        )
        rows = [_tei_row(one) for one in ([inputs] if alone else inputs if isinstance(inputs, list) else [])]
        if not rows:
            raise Refusal(400, "bad_request", "inputs must be a text, a pair of texts, or a list of these in lists")
        model = self._model(None)
        if model.opened.runner.task.pipeline != "text-classification":
            raise Refusal(422, "task", "this address is for text classification; /v1/predict is for all tasks")
        options = {"top_k": None} if "top_k" in model.opened.runner.task.options else {}
        answered = await self._listened(request, model, rows, options)
        lists = [answer if isinstance(answer, list) else [answer] for answer in answered.answers]
        return _json(lists[0] if alone else lists)

    async def infer(self, request: Request) -> Response:
        """Answer tensors."""
        model = self._named(request)
        opened = model.opened
        opened.batches.check_room()
        body = await read_body(request, self.config.max_body_bytes, (JSON, BINARY))
        task = opened.runner.task
        asked = inference.read(body, request.headers.get(inference.BINARY_SIZE), task, pairs=opened.runner.pairs)
        answered = await self._listened(request, model, asked.rows, asked.options)
        content, headers = inference.write(model.name, asked, answered.answers, task)
        return Response(content, headers=headers)

    async def info(self, request: Request) -> Response:
        """Return what text-embeddings-inference tells of its model, of the first one."""
        model = self._model(None)
        runner, manifest = model.opened.runner, model.opened.bundle.manifest
        labels = {str(number): label for number, label in enumerate(runner.labels)}
        kind = {"classifier": {"id2label": labels, "label2id": {label: int(key) for key, label in labels.items()}}}
        return _json(
            {
                "model_id": model.name,
                "model_dtype": manifest.variants[runner.variant].precision,
                "model_type": kind if runner.task.pipeline == "text-classification" else runner.task.name,
                "max_concurrent_requests": self.config.max_waiting,
                "max_input_length": manifest.max_length,
                "max_batch_tokens": runner.max_batch_tokens,
                "max_client_batch_size": self.config.max_texts,
            }
        )

    async def server(self, request: Request) -> Response:
        """Return who we are."""
        return _json({"name": "burnish", "version": version("burnish"), "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """Return that we live."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Return whether all models answer and we are not about to end."""
        ready = not self.ending and all(model.ready for model in self.models.values())
        return _json({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """Return whether a model answers."""
        model = self._named(request)
        ready = model.ready and not self.ending
        return _json({"name": model.name, "ready": ready}, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        """Return what a model reads and gives."""
        model = self._named(request)
        runner = model.opened.runner
        return _json(inference.metadata(model.name, runner.task, pairs=runner.pairs))

    async def figures(self, request: Request) -> Response:
        """Return the figures, in the format of Prometheus."""
        for name, model in self.models.items():
            self.metrics.ready.labels(name).set(model.ready)
            if model.ready:
                runner = model.opened.runner
                self.metrics.waiting.labels(name).set(model.opened.batches.waiting_rows)
                self.metrics.info.labels(name, runner.task.name, runner.variant, str(runner.provider)).set(1)
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def reload(self, request: Request) -> Response:
        """Open the bundles again, each in the place of the one before; a bad one leaves it (409).

        Of several workers each does so by itself, and no more than that is told (202).
        """
        problems = await self._reload() if self._reload is not None else {}
        if not problems:
            return _json({"accepted": True}, 202)
        models = [{"name": name, "replaced": problem is None} for name, problem in problems.items()]
        return _json({"models": models}, 200 if not any(problems.values()) else 409)

    # What they have in common

    def _named(self, request: Request) -> Model:
        return self._model(request.path_params["name"])

    def _model(self, name: Any) -> Model:
        """Return the model of a name, the first where it is None."""
        if name is None:
            return next(iter(self.models.values()))
        if not isinstance(name, str) or name not in self.models:
            raise Refusal(404, "no_such_model", f"the models are: {', '.join(self.models)}")
        return self.models[name]

    async def _json(self, request: Request) -> Any:
        """Return a body; before it is read it is seen whether there is room for what it asks."""
        if all(model.ready for model in self.models.values()):
            self._model(None).opened.batches.check_room()
        return strict_json(await read_body(request, self.config.max_body_bytes))

    async def _listened(self, request: Request, model: Model, rows: list[Any], options: Any) -> Answered:
        """Return the answers, unless the client goes away before."""
        own = asyncio.current_task()

        def gone() -> None:
            request.scope["burnish.gone"] = True
            if own is not None:
                own.cancel()

        request.scope[LOST] = gone
        try:
            return await model.answer(rows, options)
        finally:
            del request.scope[LOST]


def _told(model: Model) -> dict[str, Any]:
    """Return what can be asked of a model."""
    if not model.ready:
        return {"name": model.name, "ready": False, "task": "", "variant": "", "columns": [], "options": []}
    runner = model.opened.runner
    return {
        "name": model.name,
        "ready": True,
        "task": runner.task.name,
        "variant": runner.variant,
        "columns": inference.read_by(runner.task, pairs=runner.pairs),
        "options": list(runner.task.options),
    }


def _tei_row(one: Any) -> Any:
    """Return a row of text-embeddings-inference's ``inputs``."""
    parts = [one] if isinstance(one, str) else one
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts) or len(parts) not in {1, 2}:
        raise Refusal(400, "bad_request", "inputs must be a text, a pair of texts, or a list of these in lists")
    return {"text": parts[0]} if len(parts) == 1 else {"text_a": parts[0], "text_b": parts[1]}


def _json(value: Any, status: int = 200) -> Response:
    return Response(_ENCODE(value).encode(), status, {"Content-Type": JSON})


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
