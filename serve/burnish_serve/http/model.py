"""A bundle that answers requests: opened, tried on its golden rows, replaced in one step.

>>> model = Model("intent", Path("bundle/"), ServeConfig(), metrics)  # doctest: +SKIP
>>> await model.load()  # doctest: +SKIP
>>> answered = await model.answer([{"text": "great film"}], {})  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from burnish_serve import machine
from burnish_serve.bundle import Bundle
from burnish_serve.errors import ProofError
from burnish_serve.golden import largest_difference
from burnish_serve.http.batches import Batches, Watch
from burnish_serve.http.config import ServeConfig
from burnish_serve.http.options import checked
from burnish_serve.http.refusal import Refusal
from burnish_serve.http.waiting import Answered
from burnish_serve.opening import open_runner
from burnish_serve.runner import Runner
from burnish_serve.session import CPU
from burnish_serve.signature import open_signed
from burnish_serve.tasks import Encoded

# Lengths, in tokens, of batches that every bundle has computed before it is ready; more where the model reads more.
WARM_LENGTHS = (16, 64, 128, 512)


class Opened(NamedTuple):
    """A bundle with what computes it."""

    bundle: Bundle
    runner: Runner
    batches: Batches


class Model:
    """One name under which a bundle answers.

    Args:
        name: in addresses.
        folder: the bundle's.
        config: limits, and where to run.
        watch: is told of batches.
    """

    def __init__(self, name: str, folder: Path, config: ServeConfig, watch: Watch | None = None) -> None:
        self.name = name
        self.folder = folder
        self.config = config
        self._watch = watch
        self._opened: Opened | None = None
        self._loading = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Return whether it answers."""
        return self._opened is not None

    @property
    def opened(self) -> Opened:
        """Return what answers now.

        Raises:
            Refusal: it is not ready (503).
        """
        if self._opened is None:
            raise Refusal(503, "not_ready", "the model is not ready", {"Retry-After": "1"})
        return self._opened

    async def load(self) -> None:
        """Open the bundle, see that it answers rightly, and let it take the place of the one before in one step.

        What was accepted before is answered by the one before.

        Raises:
            BurnishError: it is damaged, cannot run here, or answers otherwise than where it was made; then the one
                before stays.
        """
        loop = asyncio.get_running_loop()
        async with self._loading:
            bundle, runner, workers = await loop.run_in_executor(None, self._open)
            batches = Batches(runner, workers=workers, max_waiting=self.config.max_waiting, watch=self._watch)
            before, self._opened = self._opened, Opened(bundle, runner, batches)
            if before is not None:
                await loop.run_in_executor(None, before.batches.close)

    async def close(self) -> None:
        """Finish what was accepted."""
        if self._opened is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._opened.batches.close)

    async def answer(self, rows: Sequence[Any], options: Any) -> Answered:
        """Return the answers to a request's rows, in order.

        Raises:
            Refusal: it asks for too much, for what the model does not read, or too late.
        """
        opened = self.opened
        if len(rows) > self.config.max_texts:
            raise Refusal(413, "too_many_rows", f"a request may have {self.config.max_texts} rows at the most")
        for row in rows:
            values = row.values() if isinstance(row, dict) else [row]
            if sum(len(value) for value in values if isinstance(value, str)) > self.config.max_characters:
                raise Refusal(
                    413, "text_too_long", f"a row may have {self.config.max_characters} characters at the most"
                )
        known = checked(options, opened.runner.task.options)
        if not rows:
            return Answered([], [])
        return await opened.batches.answer(rows, known, time.monotonic() + self.config.deadline)

    def _open(self) -> tuple[Bundle, Runner, int]:
        """Return the bundle and a runner of it that was seen to answer rightly, and how many may run it at a time."""
        config = self.config
        threads = config.threads or max(1, machine.num_threads() // config.workers)
        # A link may be moved while its files are read.
        bundle = open_signed(self.folder.resolve(), config.require_signature)
        runner = open_runner(
            bundle,
            device=config.device,
            provider=config.provider,
            variant=config.variant,
            threads=threads,
            max_batch_tokens=config.max_batch_tokens,
            on_long=config.on_long,
            for_files=True,
        )
        workers = threads if runner.provider == CPU and runner.callers else 1
        runner = copy.copy(runner)
        runner.callers = None  # the workers are
        check_golden(bundle, runner)
        warm(runner, bundle.manifest.max_length)
        return bundle, runner, workers


def check_golden(bundle: Bundle, runner: Runner) -> None:
    """Replay the golden rows.

    Raises:
        ProofError: they are answered otherwise than where the bundle was made.
    """
    off, allowed = largest_difference(bundle, runner), bundle.manifest.variants[runner.variant].golden_tolerance
    if not off <= allowed:
        raise ProofError(
            f"{bundle.folder} does not answer on this machine as it did where it was made: {runner.variant} is off by "
            f"{off:.2g} where {allowed:.2g} is allowed"
        )


def warm(runner: Runner, max_length: int) -> None:
    """Compute a batch of each kind of shape, so that no client waits for memory to be taken."""
    for length in sorted({min(length, max_length) for length in WARM_LENGTHS}):
        ids = np.full(length, runner.pad_token_id, dtype=np.int64)
        row = Encoded(ids, np.zeros_like(ids), False)
        for rows in {1, max(1, runner.max_batch_tokens // length)}:
            runner.run_batch([row] * rows)
