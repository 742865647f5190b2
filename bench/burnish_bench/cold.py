"""How long a fresh process takes to its first answer, and how much memory it holds at the most.

>>> start = ColdStart("bundle/", rows, variant="int8", threads=2)  # doctest: +SKIP
>>> start()  # doctest: +SKIP
>>> start.result()  # doctest: +SKIP
Cold(seconds=Estimate(median=0.41, …), imports=0.12, load=0.21, first=0.004, peak_mb=148.2)
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish_serve.errors import BurnishError
from burnish_serve.tasks import Row
from burnish_serve.timing import Estimate, median_interval

# What the process runs, with -P so that no file of the folder it stands in is taken for a module: nothing but the
# runner is imported before the first answer.
PROGRAM = """
import sys, time
start = time.perf_counter()
from burnish_serve import load
imported = time.perf_counter()
import json
settings = json.loads(sys.argv[1])
row = json.loads(sys.stdin.readline())
begun = time.perf_counter()
model = load(**settings)
loaded = time.perf_counter()
model([row])
answered = time.perf_counter()
print(json.dumps([imported - start, loaded - begun, answered - loaded]), flush=True)
model(json.loads(sys.stdin.readline()))
try:
    with open("/proc/self/status") as status:
        print([int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM")], flush=True)
except OSError:
    print("[null]", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Cold:
    """What starting afresh costs; medians over the processes that were started."""

    seconds: Estimate
    """From the start of Python to the first answer."""
    imports: float
    """Seconds of ``from burnish_serve import load``."""
    load: float
    """Seconds of opening the bundle."""
    first: float
    """Seconds of the first answer."""
    peak_mb: float | None
    """Most memory held at a time, resident, in millions of bytes, once all rows were answered; None where the system
    does not tell."""


class ColdStart:
    """Starts a process with a bundle each time it is called.

    Args:
        folder: the bundle.
        rows: what it answers: the first alone, then all.
        settings: the other arguments of `burnish_serve.load`.
    """

    def __init__(self, folder: str, rows: Sequence[Row], **settings: Any) -> None:
        self._command = [sys.executable, "-P", "-c", PROGRAM, json.dumps({"folder": folder, **settings}, default=str)]
        self._asked = (json.dumps(rows[0]), json.dumps(list(rows)))
        self._seconds: list[float] = []
        self._parts: list[list[float]] = []
        self._peaks: list[float | None] = []

    def __call__(self) -> None:
        """Start one process and wait for its end.

        Raises:
            BurnishError: it ended without an answer.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            started = time.perf_counter()
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
            )
            with contextlib.suppress(BrokenPipeError), process:  # what was left to say to one that has ended
                parts = _told(process, self._asked[0])
                seconds = time.perf_counter() - started
                peak = _told(process, self._asked[1])
            errors.seek(0)
            said = errors.read().splitlines() or ["it ended without a word"]
        if not peak:
            raise BurnishError(f"a fresh process could not answer: {said[-1]}")
        self._seconds.append(seconds)
        self._parts.append(parts)
        self._peaks += peak

    def result(self) -> Cold:
        """Return what was found, the first process left out where there were several: it read files into memory."""
        counted = slice(min(1, len(self._seconds) - 1), None)
        imports, load, first = np.median(np.array(self._parts)[counted], axis=0).tolist()
        return Cold(
            seconds=median_interval(np.array(self._seconds)[counted]),
            imports=imports,
            load=load,
            first=first,
            peak_mb=max((peak for peak in self._peaks if peak is not None), default=None),
        )


def _told(process: subprocess.Popen[str], asked: str) -> list[float]:
    """Return what a process tells once it was asked; nothing where it has ended."""
    line, stdin, stdout = "", process.stdin, process.stdout
    with contextlib.suppress(OSError):
        if stdin and stdout:
            stdin.write(f"{asked}\n")
            stdin.flush()
            line = stdout.readline()
    return json.loads(line) if line else []
