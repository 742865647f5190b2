"""Requests of all clients in batches: who comes while a batch is computed is in the next one.

There is no waiting for company: a worker that is free takes what is there, up to a batch's budget of tokens. Under load
batches fill by themselves, and without it a request is computed at once. An answer does not depend on its neighbours
where the variant is batch-invariant, and what is wrong with a row is its own request's trouble alone.

Workers are threads of one session with one thread a run (`burnish_serve.callers` says why).

>>> batches = Batches(load("bundle/", for_files=True), workers=2, max_waiting=1024)  # doctest: +SKIP
>>> answers = await batches.answer([{"text": "great film"}], {}, deadline)  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from burnish_serve import batching
from burnish_serve.errors import InputError
from burnish_serve.http.refusal import Refusal
from burnish_serve.http.waiting import Answered, Waiting, too_late
from burnish_serve.runner import Runner
from burnish_serve.tasks import Asked

logger = logging.getLogger("burnish.serve")
# The oldest of the requests that wait, among which company of like length is looked for.
LOOKED_AT = 128
# Budgets that are taken at once where many wait: more rows, which are cut into better batches.
DEEP = 4
# How far workers stand behind the event loop where both want the processor: who is refused shall hear of it at once.
NICE = 5
# Padding in tokens, guessed, that a text of another length must cost before it waits for the next batch.
OF_LIKE_LENGTH = 80


class Watch(Protocol):
    """What wants to know of batches."""

    def batch(
        self, *, waited: Sequence[float], tokenize: float, infer: float, tokens: int, padding: float, waiting: int
    ) -> None:
        """Take note of a batch.

        Args:
            waited: seconds that each of its requests waited.
            tokenize: seconds.
            infer: seconds.
            tokens: of all its texts.
            padding: its share of what was computed.
            waiting: rows that wait for the next one.
        """
        ...


class Batches:
    """Answers the requests of all clients; made and asked in one event loop.

    Args:
        model: a runner whose session is safe to be called by several threads.
        workers: batches that are computed at a time.
        max_waiting: rows that wait at the most.
        watch: is told of each batch.
    """

    def __init__(self, model: Runner, *, workers: int, max_waiting: int, watch: Watch | None = None) -> None:
        self.model = model
        self.max_waiting = max_waiting
        self.waiting_rows = 0
        self._workers = workers
        self._watch = watch
        self._waiting: deque[Waiting] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._free = 0
        self._rate = 0.0
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, name=f"burnish-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def check_room(self) -> None:
        """Refuse at once where more waits than may.

        Raises:
            Refusal: it does (429, with Retry-After).
        """
        if self.waiting_rows >= self.max_waiting:
            seconds = math.ceil(self.waiting_rows / self._rate) if self._rate else 1
            raise Refusal(429, "busy", "more requests wait than may", {"Retry-After": str(max(1, min(60, seconds)))})

    async def answer(self, rows: Sequence[Any], options: Mapping[str, Any], deadline: float) -> Answered:
        """Return the answers to a request's rows, in order.

        Args:
            rows: as the runner reads them.
            options: of the task, checked.
            deadline: in seconds of `time.monotonic`.

        Raises:
            Refusal: too many wait (429), a row cannot be asked (422), it is too late (504), or the server ends (503).
        """
        self.check_room()
        waiting = Waiting(rows, options, deadline, self._loop.create_future())
        with self._change:
            if self._closed:
                raise Refusal(503, "ending", "the server is ending")
            self._waiting.append(waiting)
            self.waiting_rows += len(rows)
            self._change.notify()
        late = self._loop.call_later(max(0.0, deadline - time.monotonic()), too_late, waiting)
        try:
            return await waiting.result
        finally:
            late.cancel()
            waiting.gone = True  # whoever asked does not listen any more, if he ever did not

    def close(self) -> None:
        """Finish what waits, and end the workers."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        """Compute batch by batch until all is closed."""
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        while True:
            with self._change:
                self._free += 1
                while not self._waiting and not self._closed:
                    self._change.wait()
                self._free -= 1
                if not self._waiting:
                    return
                batch = self._take()
            if batch:
                self._compute(batch)

    def _take(self) -> list[Waiting]:
        """Return requests for a batch: the oldest with those of like length, none that nobody wants.

        There are as many as the budget holds, or as are a free worker's share of what waits. Where very many wait it is
        some budgets, which the runner cuts by length. Who is left, because his
        texts are longer or shorter, finds company among those who come meanwhile, and is the oldest soon.
        """
        share = math.ceil(self.waiting_rows / (self._free + 1))
        now = time.monotonic()
        known: list[Waiting] = []
        while self._waiting and len(known) < LOOKED_AT:
            first = self._waiting.popleft()
            if first.gone or first.deadline < now:
                self.waiting_rows -= len(first.rows)
                if not first.gone:
                    self._loop.call_soon_threadsafe(too_late, first)
            else:
                known.append(first)
        batch: list[Waiting] = []
        rows = size = 0
        if known:
            budget = self.model.max_batch_tokens
            most = max(budget, min(DEEP * budget, sum(one.size for one in known) // (4 * self._workers)))
            parts = batching.plan([one.longest for one in known], most, OF_LIKE_LENGTH)
            for place in sorted(next(part for part in parts if 0 in part)):
                one = known[place]
                if batch and (size + one.size > most or rows + len(one.rows) > share):
                    break
                batch.append(one)
                rows += len(one.rows)
                size += one.size
        self.waiting_rows -= rows
        taken = set(map(id, batch))
        self._waiting.extendleft(one for one in reversed(known) if id(one) not in taken)
        return batch

    def _compute(self, batch: list[Waiting]) -> None:
        """Answer requests together; those that cannot be asked are told so, each by itself."""
        started = time.monotonic()
        found: list[tuple[Waiting, Answered | Exception]] = []
        asked: list[tuple[Waiting, list[Asked]]] = []
        for waiting, rows in zip(batch, self._encoded(batch), strict=True):
            if isinstance(rows, Exception):
                found.append((waiting, rows))
            else:
                asked.append((waiting, rows))
        encoded = time.monotonic()
        groups: dict[str, list[tuple[Waiting, list[Asked]]]] = {}
        for waiting, rows in asked:
            groups.setdefault(repr(sorted(waiting.options.items())), []).append((waiting, rows))
        for group in groups.values():
            found += self._answered(group)
        ended = time.monotonic()
        self._loop.call_soon_threadsafe(_tell, found)
        rate = sum(len(waiting.rows) for waiting in batch) / max(ended - started, 1e-6) * self._workers
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        lengths = [len(window.ids) for _, rows in asked for row in rows for window in row.windows]
        if self._watch is not None and lengths:
            self._watch.batch(
                waited=[started - waiting.since for waiting in batch],
                tokenize=encoded - started,
                infer=ended - encoded,
                tokens=sum(lengths),
                padding=batching.padding(lengths, self.model.max_batch_tokens, self.model.run_tokens),
                waiting=self.waiting_rows,
            )

    def _encoded(self, batch: list[Waiting]) -> list[list[Asked] | Exception]:
        """Return the rows of each request as they are asked, or why they cannot be."""
        try:
            whole = iter(self.model.encode([row for waiting in batch for row in waiting.rows]))
            return [[next(whole) for _ in waiting.rows] for waiting in batch]
        except Exception as error:  # whatever a row makes the tokenizer raise, the other requests are answered
            if len(batch) == 1:
                return [self._refused(error, self._first_wrong(batch[0].rows))]
            return [rows for waiting in batch for rows in self._encoded([waiting])]

    def _first_wrong(self, rows: Sequence[Any]) -> int:
        """Return the number, from 1, of the first row that cannot be asked."""
        for number, row in enumerate(rows, 1):
            try:
                self.model.encode([row])
            except Exception:  # the same as for all of them together
                return number
        return len(rows)

    def _answered(self, group: list[tuple[Waiting, list[Asked]]]) -> list[tuple[Waiting, Answered | Exception]]:
        """Return the answers to requests with the same options."""
        try:
            answers = iter(self.model.answers([row for _, rows in group for row in rows], **group[0][0].options))
            return [
                (
                    waiting,
                    Answered([next(answers) for _ in rows], [place for place, row in enumerate(rows) if row.truncated]),
                )
                for waiting, rows in group
            ]
        except Exception as error:  # as above
            if len(group) == 1:
                return [(group[0][0], self._refused(error))]
            return [one for each in group for one in self._answered([each])]

    def _refused(self, error: Exception, number: int = 0) -> Refusal:
        """Return what a client is told of an error, which may name what he sent; all that is ours goes to the log."""
        if isinstance(error, InputError):
            task = self.model.task
            return Refusal(422, "bad_row", f"row {number} is not what {task.name} reads: {task.columns_told}")
        logger.error("a request could not be answered: %s", type(error).__name__, exc_info=error)
        return Refusal(500, "internal", "the request could not be answered")


def _tell(found: list[tuple[Waiting, Answered | Exception]]) -> None:
    """Hand requests their answers, in the event loop."""
    for waiting, what in found:
        if waiting.result.done():
            continue
        if isinstance(what, Exception):
            waiting.result.set_exception(what)
        else:
            waiting.result.set_result(what)
