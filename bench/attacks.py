"""Bodies of bad will, for a server that must refuse them and go on answering others.

>>> list(attacks("http://127.0.0.1:8080"))[0]
'200 MiB'
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

import load
from started import MEGABYTE


def attacks(base: str) -> dict[str, Callable[[], Any]]:
    """Return bodies of bad will, by name; each returns statuses, and seconds from the last byte to the answer."""
    url = f"{base}/v1/predict"
    deep = b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    emoji, marks = "\U0001f600" * 250_000, "e" + "\u0301" * 500_000
    head = b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"

    def whole(request: bytes) -> Callable[[], Any]:
        async def send() -> list[tuple[int, float]]:
            return [await load.sent(url, request)]

        return send

    async def slow() -> list[tuple[int, float]]:
        """Open 200 connections, one after another, that send a byte of a body a second."""
        writers = []
        for _ in range(200):
            writers.append((await load.connected(url))[1])
            writers[-1].write(head + b"Content-Length: 100\r\n\r\n{")
            await asyncio.sleep(0.002)
        for _ in range(2):
            for writer in writers:
                writer.write(b" ")
                await asyncio.sleep(0.005)
        for writer in writers:
            writer.close()
            await asyncio.sleep(0.002)
        return [(0, 0.0)]

    def rows(text: str) -> bytes:
        return load.request_of(url, {"rows": [text]})

    chunk = b"1\r\n \r\n"
    return {
        "200 MiB": whole(head + b"Content-Length: %d\r\n\r\n" % (200 * MEGABYTE) + b" " * MEGABYTE),
        "200 MiB in chunks": whole(
            head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b" " * MEGABYTE + b"\r\n") * 200
        ),
        "3 MB in chunks of a byte": whole(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3_000_000),
        "1,000-fold gzip": whole(
            load.head_of(url, packed := gzip.compress(b" " * MEGABYTE * 100), "Content-Encoding: gzip\r\n") + packed
        ),
        "1 MiB head": whole(head + b"X-Long: " + b"x" * MEGABYTE + b"\r\n\r\n"),
        "100,000 deep": whole(load.head_of(url, deep) + deep),
        "200 slow clients": slow,
        "1 MB without a space": whole(rows("x" * 1_000_000)),
        "1 MB of emoji": whole(rows(emoji)),
        "1 MB of combining marks": whole(rows(marks)),
    }
