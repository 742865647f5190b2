"""What is written at one moment is sent at once, and nothing of it is lost where the connection is closed behind it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from burnish_serve import load
from burnish_serve.http.batches import NICE, Batches
from burnish_serve.http.protocol import Lingering


class Wire:
    """A transport that notes what happens to it."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.seen.append(data)

    def write_eof(self) -> None:
        self.seen.append("eof")

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.seen.append("close")
        self.closed = True


class Protocol:
    """A protocol whose client has sent all, or has not: then it says so itself, as `Limited` does."""

    lingers = False

    def linger(self, transport: Wire) -> bool:
        if self.lingers:
            transport.write_eof()
        return self.lingers


def seen(act, *, lingers: bool = False) -> list[object]:
    """Return what came to a transport of what was done with it in one turn of the loop, and in the next."""
    wire, protocol = Wire(), Protocol()
    protocol.lingers = lingers

    async def run() -> None:
        act(Lingering(wire, protocol, asyncio.get_running_loop()), wire)
        wire.seen.append("turn")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    return wire.seen


def test_head_and_body_are_one_write():
    def act(transport, wire):
        transport.write(b"head ")
        transport.write(b"body")

    assert seen(act) == ["turn", b"head body"]


def test_what_was_written_before_the_end_is_sent_before_it():
    def act(transport, wire):
        transport.write(b"head ")
        transport.write(b"body")
        transport.close()

    assert seen(act) == [b"head body", "close", "turn"]
    assert seen(act, lingers=True) == [b"head body", "eof", "turn"]


def test_nothing_is_written_where_the_client_has_gone():
    def act(transport, wire):
        transport.write(b"body")
        wire.closed = True

    assert seen(act) == ["turn"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_workers_stand_behind_the_event_loop(tiny_bundle):
    model = load(tiny_bundle, device="cpu", variant="int8", threads=1)
    found: list[int] = []
    tokenize = model.encode

    def noting(rows, where=None):
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return tokenize(rows, where)

    model.encode = noting

    async def run() -> None:
        batches = Batches(model, workers=1, max_waiting=8)
        await batches.answer([{"text": "great film"}], {}, asyncio.get_running_loop().time() + 60)
        batches.close()

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    asyncio.run(run())
    assert found == [min(19, own + NICE)]
