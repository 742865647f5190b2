"""What the server does not do, and how it says so: ``{"error": …, "code": …}`` with a status, and nothing else.

Messages are written here and hold nothing that a client sent, no path, no version and no trace.

>>> raise Refusal(413, "body_too_large", "the body has more than 1048576 bytes")  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response


class Refusal(Exception):  # noqa: N818  # it is no error of ours
    """A request that is not answered.

    Args:
        status: HTTP status.
        code: for programs; one word with underscores, the same for the same cause.
        message: for people.
        headers: of the response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the response."""
        headers = {**self.headers, "Content-Type": "application/json"}
        return Response(_ENCODE({"error": str(self), "code": self.code}), self.status, headers)


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # made once: refusals come in thousands
