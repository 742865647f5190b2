"""The HTTP protocol with limits on those who send slowly or much before there is a request to refuse.

uvicorn reads a head of any length, and waits for a body for ever. Here a head has a limit in bytes, and a whole request
a limit in time.

>>> protocol = limited(max_header_bytes=16_384, seconds=15)  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# In a request's scope, while it waits for its answer: what is called where its connection is lost.
LOST = "burnish.lost"


def limited(*, max_header_bytes: int, seconds: float) -> type[HttpToolsProtocol]:
    """Return a protocol class for uvicorn.

    Args:
        max_header_bytes: bytes of a request's head at the most (431).
        seconds: for a client to send a whole request, from its connection or its first byte (408).
    """

    class Limited(HttpToolsProtocol):
        """Closes the connection of whoever exceeds a limit."""

        _timer: asyncio.TimerHandle | None = None
        _head = 0
        _in_head = True

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            if self.cycle is not None and (lost := self.cycle.scope.get(LOST)):
                lost()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                self._head += len(data)
                # What stands in one read with the end of the head is let through: the parser sees it whole.
                if self._head > max_header_bytes and b"\r\n\r\n" not in data:
                    self._refuse(b"431 Request Header Fields Too Large", b"header_too_large")
                    return
            super().data_received(data)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._timer is None:
                self._arm()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            self._check_size(len(self.url))

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            if sum(len(name) + len(value) + 4 for name, value in self.headers) > max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", b"header_too_large")
                return
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._disarm()
            self._in_head = True
            super().on_message_complete()

        def _check_size(self, size: int) -> None:
            if size > max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", b"header_too_large")

        def _arm(self) -> None:
            self._timer = self.loop.call_later(seconds, self._slow)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _slow(self) -> None:
            if not self.transport.is_closing():
                self._refuse(b"408 Request Timeout", b"slow_client")

        def _refuse(self, status: bytes, code: bytes) -> None:
            """Say why, and close."""
            if self.transport.is_closing():
                return
            body = b'{"error":"' + status[4:] + b'","code":"' + code + b'"}'
            lines = [
                b"HTTP/1.1 " + status,
                b"content-type: application/json",
                b"content-length: %d" % len(body),
                b"connection: close",
                b"",
                body,
            ]
            self.transport.write(b"\r\n".join(lines))
            self.transport.close()

    return Limited
