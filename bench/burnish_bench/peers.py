"""Peers measured in turns with a bundle, each in a process of its own with a Python that has it.

>>> with started(["transformers"], python, settings) as peers:  # doctest: +SKIP
...     labels = peers["transformers"]().value
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish_bench import peer
from burnish_serve.errors import BurnishError, InputError
from burnish_serve.timing import Timed

NAMES = tuple(peer.PEERS)


class Peer:
    """One peer; a call answers all texts.

    Args:
        name: in `NAMES`.
        python: the Python that has it.
        settings: what it is told: ``bundle``, ``checkpoint``, ``texts`` and ``calibration`` (JSON files), ``threads``,
            ``max_length``.

    Raises:
        BurnishError: it cannot be started; the message is its own.
    """

    def __init__(self, name: str, python: Path, settings: Mapping[str, Any]) -> None:
        self.name = name
        threads = str(settings["threads"])
        self._process = subprocess.Popen(
            [str(python), peer.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
        )
        self.versions: dict[str, str] = self._ask({"peer": name, **settings})["versions"]

    def __call__(self) -> Timed:
        """Return the label of each text, and the seconds that its own process needed."""
        answer = self._ask("all")
        return Timed(value=answer["labels"], seconds=answer["seconds"])

    def alone(self, number: int) -> Timed:
        """Return the label of one text, answered alone, and the seconds that its own process needed."""
        answer = self._ask(number)
        return Timed(value=answer["labels"][0], seconds=answer["seconds"])

    def stop(self) -> None:
        """End its process."""
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=10)
        self._process.kill()

    def _ask(self, what: Any) -> dict[str, Any]:
        line, asked, answers = "", self._process.stdin, self._process.stdout
        with contextlib.suppress(OSError, ValueError):
            if asked and answers:
                asked.write(f"{what if what == 'all' else json.dumps(what)}\n")
                asked.flush()
                line = answers.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended without a word"}
        if "error" in answer:
            self.stop()
            raise BurnishError(f"the peer {self.name} failed: {answer['error']}")
        return answer


@contextlib.contextmanager
def started(
    names: Sequence[str], python: Path, texts: Sequence[str], calibration: Sequence[str], **settings: Any
) -> Iterator[dict[str, Peer]]:
    """Start peers and stop them at the end.

    Args:
        names: in `NAMES`.
        python: the Python that has them.
        texts: what a call answers.
        calibration: texts to quantize by.
        settings: the others of `Peer`.

    Raises:
        InputError: there is no such peer, or no such Python.
        BurnishError: one cannot be started.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(f"no peer is named {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if not python.is_file():
        raise InputError(f"no such Python: {python}; make peers installs one with all peers")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="burnish-")))
        files = {"texts": folder / "texts.json", "calibration": folder / "calibration.json"}
        for (key, path), some in zip(files.items(), (texts, calibration), strict=True):
            path.write_text(json.dumps(list(some)), encoding="utf-8")
            settings[key] = str(path)
        peers: dict[str, Peer] = {}
        for name in names:
            peers[name] = Peer(name, python, settings)
            stack.callback(peers[name].stop)
        yield peers
