"""The server's addresses, and what every request goes through: who asks, how long it takes, and how it is refused.

>>> app = App({"intent": model}, config, metrics)  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from importlib.metadata import version
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from burnish_serve.http import inference
from burnish_serve.http.batches import Answered
from burnish_serve.http.config import ServeConfig
from burnish_serve.http.metrics import CONTENT_TYPE, Metrics
from burnish_serve.http.model import Model
from burnish_serve.http.openapi import document
from burnish_serve.http.page import page
from burnish_serve.http.protocol import LOST
from burnish_serve.http.reading import BINARY, JSON, read_body, strict_json
from burnish_serve.http.refusal import Refusal

access = logging.getLogger("burnish.access")
logger = logging.getLogger("burnish.serve")
# Whoever may not ask may still see whether we live, as probes do, and where he would have to say who he is.
OPEN = {"/", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Endpoint:
    """Lets Starlette's router call what answers; what it raises goes through to where all refusals are told."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._answer = answer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)


class App:
    """The ASGI application.

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
        self.metrics = metrics
        self.ending = False
        self._process, self._count = secrets.token_hex(4), itertools.count()
        self._tokens = None if tokens is None else [token.encode() for token in tokens]
        self._reload = reload
        health = [_route("/v2/health/live", self.live), _route("/v2/health/ready", self.ready)]
        figures = [_route("/metrics", self.figures)]
        if reload is not None:
            routes = [*health, *figures, _route("/v1/reload", self.reload, post=True)]
        else:
            routes = [*self._answering(), *health, *(figures if config.admin_port is None else [])]
        self._router = Router(routes, redirect_slashes=False)

    def _answering(self) -> list[Route]:
        infer = ["/v2/models/{name}", "/v2/models/{name}/versions/1"]
        return [
            _route("/", self.page),
            _route("/openapi.json", self.openapi),
            _route("/v1/models", self.known),
            _route("/v1/predict", self.predict, post=True),
            _route("/predict", self.predict_tei, post=True),
            *(_route(f"{path}/infer", self.infer, post=True) for path in infer),
            _route("/info", self.info),
            _route("/v2", self.server),
            *(_route(f"{path}/ready", self.model_ready) for path in infer),
            *(_route(path, self.model) for path in infer),
        ]

    # What every request goes through

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        own = [(b"x-request-id", (asked if asked and REQUEST_ID.fullmatch(asked) else self._new_id()).encode())]
        if trace := headers.get(b"traceparent"):
            own.append((b"traceparent", trace))
        scope["app"] = self  # by which Starlette raises what it refuses
        status = 0

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                closing = [(b"connection", b"close")] if self.ending else []
                message["headers"] = [*message.get("headers", []), *own, *closing]
            await send(message)

        try:
            await self._answer(scope, receive, sending, headers)
        except asyncio.CancelledError:
            if not scope.get("burnish.gone"):
                raise
            status = 499
        route = getattr(scope.get("route"), "path", "none")
        seconds = time.perf_counter() - started
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if access.isEnabledFor(logging.INFO):
            access.info(
                json.dumps(
                    {
                        "time": time.time(),
                        "request": own[0][1].decode(),
                        **({"traceparent": trace.decode("latin-1")} if trace else {}),
                        "method": scope["method"],
                        "route": route,
                        "status": status,
                        "ms": round(seconds * 1000, 3),
                    }
                )
            )

    def _new_id(self) -> str:
        """Return an id that no other request has, of this process or another."""
        return f"{self._process}{next(self._count):08x}"

    async def _answer(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, headers: Mapping[bytes, bytes]
    ) -> None:
        """Answer a request, or say why not."""
        try:
            self._check_token(scope["path"], headers)
            await self._router(scope, receive, send)
            return
        except Refusal as error:
            refusal = error
        except HTTPException as error:
            known = {404: ("not_found", "there is nothing here"), 405: ("method", "the method is another one")}
            code, message = known.get(error.status_code, ("refused", "the request is refused"))
            refusal = Refusal(error.status_code, code, message, error.headers)
        except Exception as error:  # ours: the client is told no more than that
            logger.error("a request could not be answered: %s", type(error).__name__, exc_info=error)
            refusal = Refusal(500, "internal", "the request could not be answered")
        self.metrics.refusals.labels(refusal.code).inc()
        await refusal.response()(scope, receive, send)

    def _check_token(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse whoever brings no token, before anything of the body is read (401)."""
        if self._tokens is None or path in OPEN or (path == "/metrics" and self._reload is not None):
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # All are compared, so that the time tells nothing.
        known = [hmac.compare_digest(given.strip(), token) for token in self._tokens]
        if kind.lower() != b"bearer" or not any(known):
            raise Refusal(
                401, "token", "a bearer token is needed", {"WWW-Authenticate": "Bearer", "Connection": "close"}
            )

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


def _route(path: str, answer: Callable[[Request], Awaitable[Response]], *, post: bool = False) -> Route:
    return Route(path, Endpoint(answer), methods=["POST" if post else "GET"])


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
