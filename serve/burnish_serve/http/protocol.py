"""The HTTP protocol with limits on those who send slowly or much before there is a request to refuse.

uvicorn reads a head of any length, and waits for a body for ever. Here a head has a limit in bytes, and a whole request
a limit in time.

>>> protocol = limited(max_header_bytes=16_384, seconds=15)  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Chunks of a body at the most, and one more for each so many bytes: each costs as much as a small request.
MAX_CHUNKS, BYTES_OF_CHUNK = 1024, 64
# Seconds and bytes that a client may still send once it was refused: closed at once, it would lose the answer too.
LINGER_SECONDS, LINGER_BYTES = 2.0, 2**24
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
        _coming = False
        _chunks = _bytes = 0
        _discarded: int | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(Lingering(transport, self, self.loop))  # type: ignore[arg-type]  # it does what one does
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            scope: Any = self.cycle.scope if self.cycle is not None else {}
            if LOST in scope:
                scope[LOST]()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._discarded is not None:
                self._discard(len(data))
                return
            if self._in_head:
                self._head += len(data)
                # What stands in one read with the end of the head is let through: the parser sees it whole.
                if self._head > max_header_bytes and b"\r\n\r\n" not in data:
                    self._refuse(b"431 Request Header Fields Too Large", b"header_too_large")
                    return
            super().data_received(data)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._coming = True
            self._chunks = self._bytes = 0
            if self._timer is None:
                self._arm()

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            if len(self.url) > max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", b"header_too_large")

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            if sum(len(name) + len(value) + 4 for name, value in self.headers) > max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", b"header_too_large")
                return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._chunks += 1
            self._bytes += len(body)
            if self._discarded is not None:
                return
            if self._chunks > MAX_CHUNKS + self._bytes // BYTES_OF_CHUNK:
                self._refuse(b"413 Content Too Large", b"too_many_chunks")
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                return
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self._discarded is not None:
                return
            self._disarm()
            self._in_head, self._coming = True, False
            super().on_message_complete()

        def linger(self, transport: Any) -> bool:
            """Return whether a connection that is to be closed waits for what its client is still sending."""
            coming = self._coming or self._head
            if not coming or self._discarded is not None or not transport.can_write_eof():
                return False
            self._disarm()
            self._discarded = 0
            transport.write_eof()
            transport.resume_reading()
            self._timer = self.loop.call_later(LINGER_SECONDS, transport.close)
            return True

        def _discard(self, size: int) -> None:
            self._discarded = (self._discarded or 0) + size
            if self._discarded > LINGER_BYTES:
                self.transport.close()

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


class Lingering:
    """A transport that reads on, for a while and into nothing, when it is closed before all of a request has come.

    What is written at one moment, such as a response's head and its body, is sent at once.

    Args:
        transport: the connection's.
        protocol: is asked whether to linger.
        loop: the event loop.
    """

    def __init__(self, transport: Any, protocol: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._protocol = protocol
        self._loop = loop
        self._lingers = False
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, with those that are written before the event loop turns to others."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written and not self._transport.is_closing():
            self._transport.write(b"".join(written))

    def is_closing(self) -> bool:
        """Return whether nothing is to be written any more."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close, now or when the client has had its time."""
        self._flush()
        if not self._lingers and not self._transport.is_closing() and self._protocol.linger(self._transport):
            self._lingers = True
        else:
            self._transport.close()
