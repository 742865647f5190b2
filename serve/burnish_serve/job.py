"""A long pass over a file of rows: what is done of it is on the disk, and a run that was stopped goes on behind it.

Beside ``OUT`` stand, until it is whole, ``.OUT.partial`` with the answers so far and ``.OUT.progress`` with how far
that is. The latter is replaced after each window of rows, when the answers of the window are on the disk: so a run that
goes on cuts off what stands behind, and no row is lost or doubled. Windows begin where they would have begun, so the
answers are the same to the last byte.

>>> with Job(Path("answers.jsonl"), told, resume=True) as job:  # doctest: +SKIP
...     for window in windows(itertools.islice(rows, job.rows, None), 4096):
...         job.write(answering(window))
"""

from __future__ import annotations

import collections
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from burnish_serve.answering import Answered
from burnish_serve.errors import InputError
from burnish_serve.writing import RowWriter


class Job:
    """Where answers go, and how far they are; use it in a ``with``.

    Args:
        out: file of the answers; None for standard output.
        told: what a run that goes on must have in common with the one that began; None for a job that nobody can go
            on with, as one that reads standard input.
        errors: file of the rows that could not be answered; None where there is none.
        resume: go on where an earlier run was stopped; from the start where there is none.
        overwrite: begin again where an earlier run was stopped.

    Raises:
        InputError: an earlier run was stopped and neither is asked for, or it was another one; another is at work; a
            file cannot be written.
        MissingExtraError: Parquet or zstd without pyarrow.
    """

    def __init__(
        self,
        out: Path | None,
        told: Mapping[str, Any] | None,
        *,
        errors: Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._told = None if told is None or out is None else json.loads(json.dumps(told, default=str))
        self._out = out or Path("-")
        self._progress = _beside(self._out, "progress")
        before = {} if overwrite or self._told is None else self._before(resume=resume)
        self.rows: int = before.get("rows", 0)
        """Rows of the input that are behind us."""
        self.counts: collections.Counter[str] = collections.Counter(before.get("counts", {}))
        """Sums over all runs of the job."""
        if out and errors and out.resolve() == errors.resolve():
            raise InputError(f"{errors} cannot hold both the answers and the rows that have none")
        names = {"answers": out, **({"errors": errors} if errors else {})}
        self._partials = {name: _beside(path, "partial") for name, path in names.items() if path and self._told}
        for name, partial in self._partials.items():
            size = partial.stat().st_size if partial.is_file() else 0
            if size < before.get(name, {}).get("bytes", 0):
                raise InputError(f"{partial} is shorter than {self._progress} says; --overwrite begins again")
        self._writers = {
            name: RowWriter(path, partial=self._partials.get(name), state=before.get(name))
            for name, path in names.items()
        }
        self._stack = contextlib.ExitStack()

    def _before(self, *, resume: bool) -> dict[str, Any]:
        """Return how far an earlier run came; nothing where this one begins."""
        if not self._progress.is_file():
            return {}
        try:
            before: dict[str, Any] = json.loads(self._progress.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{self._progress} is damaged; --overwrite begins again") from error
        if not resume:
            begun = f"{self._out} was begun before, and {before['rows']} rows of it are done"
            raise InputError(f"{begun}; --resume goes on, --overwrite begins again")
        told: dict[str, Any] = self._told or {}
        changed = [
            f"{name} was {before['told'].get(name)!r} and is {value!r}"
            for name, value in told.items()
            if before["told"].get(name) != value
        ]
        if changed:
            raise InputError(f"{self._out} was begun otherwise: {', '.join(changed)}; --overwrite begins again")
        return before

    def __enter__(self) -> Job:
        with contextlib.ExitStack() as stack:
            if self._told is not None:
                stack.enter_context(_alone(self._partials["answers"]))
                if not self.rows:  # a note of another run, which is not true of what is written from here on
                    self._progress.unlink(missing_ok=True)
            for writer in self._writers.values():
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def write(self, answered: Answered) -> None:
        """Write a window of lines with its answers, and note that it is done."""
        self._writers["answers"].write(answered.rows)
        if answered.wrong:
            self._writers["errors"].write(answered.wrong)
        self.counts["errors"] += len(answered.wrong)
        self.counts["truncated"] += answered.truncated
        self.counts["repeated"] += answered.repeated
        self.rows += answered.lines
        if self._told is not None:
            self._save()

    def _save(self) -> None:
        state = {name: writer.state() for name, writer in self._writers.items()}
        text = json.dumps({"rows": self.rows, "counts": self.counts, "told": self._told, **state}, ensure_ascii=False)
        other = _beside(self._out, "progress.new")
        other.write_text(text + "\n", encoding="utf-8")
        other.replace(self._progress)

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self._stack.__exit__(kind, *rest)
        if self._told is None:
            return
        if kind is None:
            self._progress.unlink(missing_ok=True)
        elif not self._progress.is_file():  # nothing to go on from
            for path in self._partials.values():
                path.unlink(missing_ok=True)

    @property
    def unfinished(self) -> bool:
        """Return whether a part of it is done, so that a run can go on."""
        return self._told is not None and self._progress.is_file()


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f".{path.name}.{name}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock on a file, so that no other run writes to it.

    Raises:
        InputError: another holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where nobody else can open the file to write
        yield
        return
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another run is writing to {path}") from error
        yield
