"""A server that was started to be measured: its address, its log, its memory, its end.

>>> with server(Path("bundle/")) as running:  # doctest: +SKIP
...     print(running.url)
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

BURNISH = Path(sys.executable).with_name("burnish")
MEGABYTE = 2**20


class Server:
    """A server that runs; its memory is that of all its processes.

    Args:
        bundles: folders.
        flags: more of its flags.
        start: the command; a test may plant a fault by it.
    """

    def __init__(
        self, *bundles: Path, flags: Sequence[str] = (), start: Sequence[str] = (str(BURNISH), "serve")
    ) -> None:
        self.log = Path(tempfile.mkstemp(prefix="burnish-serve-")[1])
        command = [*start, *map(str, bundles), "--port", "0", "--no-access-log", *flags]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        found = self.until(lambda: re.search(r"running on (http://\S+:\d+)", self.said()))
        self.base = found[1]
        self.url = f"{self.base}/v1/predict"
        names = [bundle.name for bundle in bundles]
        self.until(lambda: all(f"{name} is ready" in self.said() for name in names))

    def said(self) -> str:
        """Return the log."""
        return self.log.read_text(encoding="utf-8")

    def until(self, true: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until something is so, and return it."""
        ends = time.monotonic() + seconds
        while not (found := true()):
            if time.monotonic() > ends or self.process.poll() is not None:
                self.process.kill()
                raise click.ClickException(f"the server did not get so far:\n{self.said()}")
            time.sleep(0.01)
        return found

    def memory(self) -> float:
        """Return the resident memory in MiB."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE

    def stop(self) -> int:
        """End it, and return its status."""
        self.process.terminate()
        status = self.process.wait(60)
        self.log.unlink()
        return status


@contextlib.contextmanager
def server(*bundles: Path, flags: Sequence[str] = (), **given: Any) -> Iterator[Server]:
    """Give a server, which ends with the block."""
    running = Server(*bundles, flags=flags, **given)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
