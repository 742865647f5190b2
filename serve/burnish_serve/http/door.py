"""What every request goes through: who asks, how long it takes, how it is refused, and what is noted of it.

>>> Door(router, metrics, tokens=None, free={"/v2/health/live"})  # doctest: +SKIP
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
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from burnish_serve.http.metrics import Metrics
from burnish_serve.http.refusal import Refusal

access = logging.getLogger("burnish.access")
logger = logging.getLogger("burnish.serve")
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


def route(path: str, answer: Callable[[Request], Awaitable[Response]], *, post: bool = False) -> Route:
    """Return a route to what answers at an address."""
    return Route(path, Endpoint(answer), methods=["POST" if post else "GET"])


class Door:
    """An ASGI application around a router.

    Args:
        router: what answers.
        metrics: figures.
        tokens: of which a request must bring one; None lets everybody in.
        free: paths that want none.
    """

    def __init__(self, router: Router, metrics: Metrics, tokens: Sequence[str] | None, free: Collection[str]) -> None:
        self.metrics = metrics
        self.ending = False
        self._router = router
        self._tokens = None if tokens is None else [token.encode() for token in tokens]
        self._free = free
        self._process, self._count = secrets.token_hex(4), itertools.count()

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
        if self._tokens is None or path in self._free:
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # All are compared, so that the time tells nothing.
        known = [hmac.compare_digest(given.strip(), token) for token in self._tokens]
        if kind.lower() != b"bearer" or not any(known):
            raise Refusal(
                401, "token", "a bearer token is needed", {"WWW-Authenticate": "Bearer", "Connection": "close"}
            )
