"""Requests in batches: who comes meanwhile joins, what is wrong stays alone, what nobody waits for is not computed."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from burnish_serve import InputError, load
from burnish_serve.http import model as http_model
from burnish_serve.http.batches import Batches
from burnish_serve.http.config import ServeConfig
from burnish_serve.http.model import Model
from burnish_serve.http.refusal import Refusal

TEXTS = ["great film", "dull", "great " * 9, "a dull film of great length"]


class Slow:
    """A runner that waits until it may, and notes what it was asked."""

    def __init__(self, model, gate: threading.Event) -> None:
        self._model, self._gate = model, gate
        self.batches: list[list[str]] = []
        self.fault: Exception | None = None

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, rows, where=None):
        return self._model.encode(rows, where)

    def answers(self, asked, **options):
        self.batches.append([row.texts[0] for row in asked])
        assert self._gate.wait(10)
        if self.fault and any("fault" in row.texts[0] for row in asked):
            raise self.fault
        return self._model.answers(asked, **options)


@pytest.fixture
def model(tiny_bundle):
    return load(tiny_bundle, device="cpu", variant="int8", threads=1)


@pytest.fixture
def gate():
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture
def slow(model, gate):
    return Slow(model, gate)


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def ask(slow, *, workers: int = 1, max_waiting: int = 100, watch=None):
    """Return a decorator that runs a coroutine function on batches of a runner."""

    def run(what):
        async def main():
            batches = Batches(slow, workers=workers, max_waiting=max_waiting, watch=watch)
            try:
                return await what(batches)
            finally:
                await asyncio.get_running_loop().run_in_executor(None, batches.close)

        return asyncio.run(main())

    return run


async def until(true) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_are_the_runners_in_order(slow, model, workers):
    @ask(slow, workers=workers, max_waiting=10_000)
    async def found(batches):
        requests = [TEXTS[: 1 + number % 4] for number in range(60)]
        return await asyncio.gather(*(batches.answer(rows, {}, soon()) for rows in requests))

    right = model(TEXTS)
    assert [one.answers for one in found] == [right[: 1 + number % 4] for number in range(60)]
    assert not any(one.truncated for one in found)


def test_who_comes_meanwhile_is_in_the_next_batch(slow, gate):
    gate.clear()

    @ask(slow)
    async def found(batches):
        first = asyncio.create_task(batches.answer(TEXTS[:1], {}, soon()))
        await until(lambda: slow.batches)
        others = [asyncio.create_task(batches.answer([text], {}, soon())) for text in TEXTS]
        await until(lambda: batches.waiting_rows == 4)
        gate.set()
        return await asyncio.gather(first, *others)

    assert slow.batches == [TEXTS[:1], TEXTS]
    assert len(found) == 5


def test_a_batch_holds_no_more_than_its_budget(slow, gate):
    gate.clear()
    slow._model.max_batch_tokens = 40

    @ask(slow)
    async def found(batches):
        tasks = [asyncio.create_task(batches.answer(["film " * 12], {}, soon())) for _ in range(7)]
        await until(lambda: slow.batches)
        gate.set()
        return await asyncio.gather(*tasks)

    assert len(found) == 7
    assert max(len(batch) for batch in slow.batches) == 2


def test_free_workers_share_what_waits(slow, gate):
    gate.clear()

    @ask(slow, workers=2)
    async def found(batches):
        await until(lambda: batches._free == 2)
        with batches._change:  # so that all of it waits before one of them looks
            tasks = [asyncio.create_task(batches.answer([text], {}, soon())) for text in TEXTS]
            await asyncio.sleep(0)
            assert batches.waiting_rows == 4
        await until(lambda: len(slow.batches) == 2)
        gate.set()
        return await asyncio.gather(*tasks)

    assert len(found) == 4
    assert [len(batch) for batch in slow.batches] == [2, 2]


def test_a_worker_leaves_nothing_to_one_that_is_busy(slow, gate):
    gate.clear()

    @ask(slow, workers=2)
    async def found(batches):
        tasks = []
        for number in (1, 2):
            tasks.append(asyncio.create_task(batches.answer(TEXTS[:1], {}, soon())))
            await until(lambda number=number: len(slow.batches) == number)
        tasks += [asyncio.create_task(batches.answer([text], {}, soon())) for text in TEXTS]
        await until(lambda: batches.waiting_rows == 4)
        gate.set()
        return await asyncio.gather(*tasks)

    assert len(found) == 6
    assert max(len(batch) for batch in slow.batches) == 4, "all that waits, for the other worker was not free"


def test_some_budgets_are_taken_at_once_where_very_many_wait(slow, gate):
    gate.clear()
    slow._model.max_batch_tokens = 40

    @ask(slow)
    async def found(batches):
        tasks = [asyncio.create_task(batches.answer(["first"], {}, soon()))]
        await until(lambda: slow.batches)
        tasks += [asyncio.create_task(batches.answer(["film"], {}, soon())) for _ in range(90)]
        await until(lambda: batches.waiting_rows == 90)
        gate.set()
        return await asyncio.gather(*tasks)

    assert len(found) == 91
    sizes = [len(batch) for batch in slow.batches[1:]]
    assert sizes[0] > 40 // 3  # of three tokens each, as it is guessed
    assert max(sizes) <= 4 * 40 // 3
    assert sizes[-1] <= 40 // 3


def test_a_batch_is_the_oldest_and_those_of_like_length(slow, gate):
    gate.clear()
    short, long = [f"film {number}" for number in range(6)], ["dull " * 40, "great " * 40]

    @ask(slow)
    async def found(batches):
        tasks = [asyncio.create_task(batches.answer(["first"], {}, soon()))]
        await until(lambda: slow.batches)
        for text in (*short[:3], long[0], *short[3:], long[1]):
            tasks.append(asyncio.create_task(batches.answer([text], {}, soon())))
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks)

    assert len(found) == 9
    assert slow.batches == [["first"], short, long]


def test_who_is_left_out_of_a_batch_is_the_next(slow, gate):
    gate.clear()

    @ask(slow)
    async def found(batches):
        tasks = [asyncio.create_task(batches.answer(["first"], {}, soon()))]
        await until(lambda: slow.batches)
        for text in ("dull " * 40, "film", "dull"):
            tasks.append(asyncio.create_task(batches.answer([text], {}, soon())))
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks)

    assert len(found) == 4
    assert slow.batches == [["first"], ["dull " * 40], ["film", "dull"]]


def test_options_are_each_requests_own(slow, model):
    @ask(slow)
    async def found(batches):
        wanted = [{"top_k": 1}, {"top_k": None}, {}, {"top_k": None}]
        return await asyncio.gather(*(batches.answer(TEXTS[:2], options, soon()) for options in wanted))

    one, every = model(TEXTS[:2], top_k=1), model(TEXTS[:2], top_k=None)
    assert [each.answers for each in found] == [one, every, model(TEXTS[:2]), every]


def test_a_row_that_cannot_be_asked_fails_alone(slow, gate, model):
    gate.clear()

    @ask(slow)
    async def found(batches):
        first = asyncio.create_task(batches.answer(TEXTS[:1], {}, soon()))
        await until(lambda: slow.batches)
        rows = [[TEXTS[0]], [TEXTS[1], {"secret": "of the client"}], [TEXTS[2]]]
        tasks = [asyncio.create_task(batches.answer(each, {}, soon())) for each in rows]
        await until(lambda: batches.waiting_rows == 4)
        gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert found[0].answers == model(TEXTS[:1])
    assert found[2].answers == model(TEXTS[2:3])
    assert (found[1].status, found[1].code) == (422, "bad_row")
    assert "row 2" in str(found[1])
    assert "secret" not in str(found[1])


@pytest.mark.parametrize(("fault", "status"), [(ValueError("of the client"), 500), (InputError("of the client"), 422)])
def test_what_fails_in_the_model_fails_alone_and_is_not_told(slow, gate, model, fault, status, caplog):
    gate.clear()
    slow.fault = fault

    @ask(slow)
    async def found(batches):
        first = asyncio.create_task(batches.answer(TEXTS[:1], {}, soon()))
        await until(lambda: slow.batches)
        tasks = [asyncio.create_task(batches.answer([text], {}, soon())) for text in (TEXTS[0], "a fault", TEXTS[1])]
        await until(lambda: batches.waiting_rows == 3)
        gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [found[0].answers, found[2].answers] == [model(TEXTS[:1]), model(TEXTS[1:2])]
    assert found[1].status == status
    assert "of the client" not in str(found[1])


def test_more_than_may_wait_is_refused_at_once(slow, gate):
    gate.clear()

    @ask(slow, max_waiting=3)
    async def found(batches):
        first = asyncio.create_task(batches.answer(TEXTS[:1], {}, soon()))
        await until(lambda: slow.batches)
        waiting = [asyncio.create_task(batches.answer([text], {}, soon())) for text in TEXTS[:3]]
        await until(lambda: batches.waiting_rows == 3)
        with pytest.raises(Refusal) as refused:
            await batches.answer(TEXTS[:1], {}, soon())
        gate.set()
        await asyncio.gather(first, *waiting)
        return refused.value

    assert found.status == 429
    assert 1 <= int(found.headers["Retry-After"]) <= 60


def test_a_deadline_that_has_passed_is_told_and_not_computed(slow, gate):
    gate.clear()

    @ask(slow)
    async def found(batches):
        first = asyncio.create_task(batches.answer(TEXTS[:1], {}, soon()))
        await until(lambda: slow.batches)
        with pytest.raises(Refusal) as refused:
            await batches.answer(["too late"], {}, soon(0.05))
        gate.set()
        await first
        await batches.answer(TEXTS[1:2], {}, soon())
        return refused.value

    assert (found.status, found.code) == (504, "deadline")
    assert slow.batches == [TEXTS[:1], TEXTS[1:2]]


def test_what_is_too_late_is_not_computed_where_the_loop_is_late_itself(slow, gate):
    gate.clear()

    @ask(slow)
    async def found(batches):
        first = asyncio.create_task(batches.answer(TEXTS[:1], {}, soon()))
        await until(lambda: slow.batches)
        late = asyncio.create_task(batches.answer(["too late"], {}, soon(0.05)))
        await until(lambda: batches.waiting_rows == 1)
        threading.Timer(0.1, gate.set).start()
        time.sleep(0.4)  # the event loop does nothing meanwhile, and the worker is free
        return await asyncio.gather(first, late, return_exceptions=True)

    assert found[1].status == 504
    assert slow.batches == [TEXTS[:1]]


def test_who_went_away_is_not_computed(slow, gate):
    gate.clear()

    @ask(slow)
    async def found(batches):
        first = asyncio.create_task(batches.answer(TEXTS[:1], {}, soon()))
        await until(lambda: slow.batches)
        gone = asyncio.create_task(batches.answer(["went away"], {}, soon()))
        await until(lambda: batches.waiting_rows == 1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        gate.set()
        await first
        await batches.answer(TEXTS[1:2], {}, soon())
        return batches.waiting_rows

    assert slow.batches == [TEXTS[:1], TEXTS[1:2]]
    assert found == 0


def test_closing_finishes_what_waits_and_takes_no_more(slow, gate):
    gate.clear()

    @ask(slow)
    async def found(batches):
        tasks = [asyncio.create_task(batches.answer([text], {}, soon())) for text in TEXTS]
        await until(lambda: slow.batches)
        closing = asyncio.get_running_loop().run_in_executor(None, batches.close)
        await until(lambda: batches._closed)
        with pytest.raises(Refusal) as refused:
            await batches.answer(TEXTS[:1], {}, soon())
        gate.set()
        await closing
        return await asyncio.gather(*tasks), refused.value.status

    answered, status = found
    assert (len(answered), status) == (4, 503)


def test_what_is_cut_is_told(model):
    long = "film " * 2000

    @ask(model)
    async def found(batches):
        return await batches.answer([TEXTS[0], long], {}, soon())

    assert found.truncated == [1]
    assert found.answers[1]["truncated"] is True


def test_each_batch_is_told_of(slow, monkeypatch):
    monkeypatch.setattr(slow, "run_tokens", None)  # one run, padded to the longest
    told = []

    class Watch:
        def batch(self, **what) -> None:
            told.append(what)

    @ask(slow, watch=Watch())
    async def found(batches):
        return await batches.answer(TEXTS, {}, soon())

    (batch,) = told
    lengths = np.array([row.tokens for row in slow.encode(TEXTS)])
    assert batch["tokens"] == lengths.sum()
    assert batch["padding"] == pytest.approx(1 - lengths.sum() / (4 * lengths.max()))
    assert len(batch["waited"]) == 1
    assert batch["tokenize"] > 0 < batch["infer"]


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (3, 2), (16, 1)])
def test_a_worker_takes_its_share_of_threads_and_what_its_link_leads_to(
    workers, threads, tiny_bundle, tmp_path, monkeypatch
):
    taken = {}

    def opened(bundle, **given):
        taken.update(given, folder=bundle.folder)
        raise InputError("that is enough")

    monkeypatch.setattr(http_model, "open_runner", opened)
    monkeypatch.setattr(http_model.machine, "num_threads", lambda: 8)
    (tmp_path / "link").symlink_to(tiny_bundle)
    with pytest.raises(InputError, match="that is enough"):
        asyncio.run(Model("intent", tmp_path / "link", ServeConfig(workers=workers)).load())
    assert taken["threads"] == threads
    assert taken["folder"] == tiny_bundle.resolve()
