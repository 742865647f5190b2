"""Load for a server: clients that wait for each other's turn, or requests that come whether or not it keeps up.

Runs in a process of its own beside `burnish serve`, with plain sockets, so that it takes little of the machine.

    python bench/load.py URL rows.jsonl --clients 32 --seconds 10
    python bench/load.py URL rows.jsonl --rate 400 --texts 16 --seconds 60

Closed loop: each client sends its next request when it has its answer. Open loop: requests come at random (Poisson) at
a rate, as those of many people do, and what a request waits for its turn counts (G. Tene's coordinated omission).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np
import uvloop


class Client(asyncio.Protocol):
    """One connection that is kept; sends a request at a time and reads no more of an answer than it must."""

    def __init__(self, host: str, port: int) -> None:
        self.place = host, port
        self.transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self.received = b""

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Send a request and return the status, head in small letters, and body of its answer; 0 where it was lost."""
        try:
            transport = await self.connect()
        except OSError:
            return 0, b"", b""
        self.answered, self.received = asyncio.get_running_loop().create_future(), b""
        transport.write(request)
        return await self.answered

    async def connect(self) -> asyncio.Transport:
        """Return where to write, of the connection that is there or of a new one."""
        if self.transport is None or self.transport.is_closing():
            self.transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, *self.place)
        return self.transport

    def connection_made(self, transport: Any) -> None:
        """Keep where to write."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Read an answer, which may come in parts."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
        if len(body) >= length and self.answered and not self.answered.done():
            if b"connection: close" in head:
                self.close()
            self.answered.set_result((int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that no answer will come."""
        self.transport = None
        if self.answered and not self.answered.done():
            self.answered.set_result((0, b"", b""))

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None


# Bytes that are written at a time where a server may refuse before it has read all.
PART = 2**16
Outcome = tuple[float, float, int, bool]
"""When a request was due, seconds until its answer, status, whether it had Retry-After."""


async def closed(url: str, requests: Iterator[bytes], clients: int, seconds: float) -> list[Outcome]:
    """Return what became of the requests of clients that wait for their answers."""
    found: list[Outcome] = []
    ends = time.perf_counter() + seconds

    async def one() -> None:
        client = client_of(url)
        while (begun := time.perf_counter()) < ends:
            status, head, _ = await client.ask(next(requests))
            found.append((begun, time.perf_counter() - begun, status, b"retry-after:" in head))
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return found


async def opened(url: str, requests: Iterator[bytes], rate: float, seconds: float) -> list[Outcome]:
    """Return what became of requests that come at a rate; a connection that is free takes each, or a new one."""
    found: list[Outcome] = []
    free: list[Client] = []
    drawn = random.Random(0)  # noqa: S311  # arrivals, no secrets
    gc.freeze()  # what stands is not looked through again and again while others wait

    async def one(due: float, request: bytes) -> None:
        client = free.pop() if free else client_of(url)
        status, head, _ = await client.ask(request)
        found.append((due, time.perf_counter() - due, status, b"retry-after:" in head))
        free.append(client)

    tasks = set()
    due = time.perf_counter()
    ends = due + seconds
    while due < ends:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(due, next(requests)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += drawn.expovariate(rate)
    await asyncio.gather(*tasks)
    for client in free:
        client.close()
    return found


async def counted(url: str, requests: Iterator[bytes], clients: int, count: int) -> collections.Counter[int]:
    """Return the statuses of a number of requests of clients that wait for their answers."""
    found: collections.Counter[int] = collections.Counter()
    numbers = iter(range(count))

    async def one() -> None:
        client = client_of(url)
        for _ in numbers:
            status, _, _ = await client.ask(next(requests))
            found[status] += 1
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return found


async def sent(url: str, request: bytes) -> tuple[int, float]:
    """Send bytes as far as they are taken; return the answer's status, and seconds from the last byte to it."""
    reader, writer = await connected(url)
    answer = asyncio.ensure_future(reader.read(65_536))
    with contextlib.suppress(OSError):  # a refusal may close the connection before all was sent
        for start in range(0, len(request), PART):
            if answer.done():
                break
            writer.write(request[start : start + PART])
            await writer.drain()
            await asyncio.sleep(0)  # an answer may have come
    last = time.perf_counter()
    try:
        head = await asyncio.wait_for(answer, 30)
    except OSError:
        head = b""
    took = time.perf_counter() - last
    writer.close()
    return int(head[9:12] or 0), took


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the streams of a new connection."""
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


def head_of(url: str, body: bytes, more: str = "") -> bytes:
    """Return the head of a request with a body of JSON."""
    address = urlsplit(url)
    return (
        f"POST {address.path or '/v1/predict'} HTTP/1.1\r\nHost: {address.netloc}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()


def request_of(url: str, body: Any, token: str | None = None) -> bytes:
    """Return a request with a body of JSON."""
    content = json.dumps(body).encode()
    return head_of(url, content, f"Authorization: Bearer {token}\r\n" if token else "") + content


def requests_of(url: str, texts: list[str], count: int, token: str | None) -> Iterator[bytes]:
    """Yield requests of ``count`` texts, in a circle."""
    starts = range(0, len(texts), count)
    rows = [[texts[(start + place) % len(texts)] for place in range(count)] for start in starts]
    return itertools.cycle([request_of(url, {"rows": some}, token) for some in rows])


def summary(found: list[Outcome], texts: int, seconds: float) -> dict[str, Any]:
    """Return the figures of a run; times in milliseconds."""
    statuses = collections.Counter(status for _, _, status, _ in found)
    good = np.array([took for _, took, status, _ in found if status == 200]) * 1000
    refused = np.array([took for _, took, status, _ in found if status in {429, 503}]) * 1000
    return {
        "requests": len(found),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "texts_per_second": round(len(good) * texts / seconds, 1),
        "answered_ms": _percentiles(good),
        "refused_ms": _percentiles(refused),
        "refused_with_retry_after": sum(retry for _, _, status, retry in found if status == 429),
    }


def _percentiles(values: Any) -> dict[str, float] | None:
    if not len(values):
        return None
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}


def client_of(url: str) -> Client:
    """Return a client of the server at an address."""
    address = urlsplit(url)
    return Client(address.hostname or "127.0.0.1", address.port or 80)


@click.command()
@click.argument("url")
@click.argument("rows", type=click.Path(exists=True, path_type=Path))
@click.option("--clients", default=32, help="clients of the closed loop  [default: 32]")
@click.option("--rate", type=float, help="requests a second of an open loop, in place of clients that wait")
@click.option("--texts", default=1, help="texts of a request  [default: 1]")
@click.option("--seconds", default=10.0, help="[default: 10]")
@click.option("--token", help="bearer token")
def main(url: str, rows: Path, clients: int, rate: float | None, texts: int, seconds: float, token: str | None) -> None:
    """Send requests to a server at URL, such as http://127.0.0.1:8080, and print one JSON line of figures."""
    lines = [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()]
    requests = requests_of(url, lines, texts, token)
    run = closed(url, requests, clients, seconds) if rate is None else opened(url, requests, rate, seconds)
    started = time.perf_counter()
    found = uvloop.run(run)
    json.dump(summary(found, texts, max(seconds, time.perf_counter() - started)), sys.stdout)
    print()


if __name__ == "__main__":
    main()
