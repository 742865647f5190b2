"""The folder of a search: made, or taken up again, by one process at a time.

``search.json`` says what the search was begun with; ``study.db`` holds its finished trials, ``trials/NUMBER`` their
checkpoints, and ``trials/NUMBER.partial`` the run that goes on. All of it is looked at only by the process that holds a
lock on the folder, which the system takes back when that process ends, however it ends.

>>> with held(Path("runs/search"), about, resume=True, overwrite=False):  # doctest: +SKIP
...     tidy(Path("runs/search"), finished=3, kept={1})
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from burnish_serve.errors import InputError
from burnish_serve.writing import write_text
from burnish_train import checkpoint

ABOUT = "search.json"
TRIALS = "trials"
BEST = "best"


@contextlib.contextmanager
def held(out: Path, about: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Make the folder of a search, or take it up, and keep other searches out of it.

    Args:
        out: the folder.
        about: what a resumed search must have as it was begun.
        resume: go on with what stands there.
        overwrite: throw it away.

    Raises:
        InputError: something stands in the way that only the user can decide on, or another search runs there.
    """
    if not out.name:
        raise InputError(f"--out {out} names no new folder; give one, such as --out runs/search")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from error
    with _alone(out):
        path = out / ABOUT
        begun = path.is_file()
        if not begun and any(not inside.name.startswith(f".{ABOUT}.") for inside in out.iterdir()):
            raise InputError(f"{out} exists already and is not a search of burnish; give another --out")
        if begun and not resume:
            if not overwrite:
                raise InputError(f"{out} holds a search; --resume goes on with it, --overwrite starts again")
            _clear(out)
            begun = False
        if begun:
            _check_same(path, about)
        else:
            write_text(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        yield


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another search is running in {folder}; wait for it, or give another --out") from error
        yield
    finally:
        os.close(descriptor)


def _clear(out: Path) -> None:
    """Remove all of a search, and last the file that says that it is one."""
    for inside in sorted(out.iterdir(), key=lambda inside: inside.name == ABOUT):
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        else:
            inside.unlink()


def _check_same(path: Path, about: Mapping[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is not JSON; --overwrite starts again") from error
    now = json.loads(json.dumps(about))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if changed:
        listed = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise InputError(f"{path.parent} was begun with other settings: {listed}; --overwrite starts again")


def place(out: Path, number: int) -> Path:
    """Return the checkpoint of a trial."""
    return out / TRIALS / str(number)


def unfinished(out: Path, number: int) -> Path:
    """Return the folder of a trial's run that is not whole yet."""
    return place(out, number).with_name(f"{number}.partial")


def tidy(out: Path, finished: int, kept: Container[int]) -> None:
    """Remove what finished trials left behind, but for the checkpoints that are kept.

    Args:
        out: folder of the search.
        finished: how many trials are in the study: those with lower numbers.
        kept: their numbers.
    """
    for path in out.glob(f"{TRIALS}/*"):
        number = int(path.name.partition(".")[0])
        if number < finished and (path.suffix or number not in kept):
            shutil.rmtree(path)


def keep_best(out: Path, number: int, *, copy: bool) -> None:
    """Put the best trial's checkpoint into its place; again after a kill, or where a search went on and found better.

    Args:
        out: folder of the search.
        number: of the best trial.
        copy: leave it where it is, too.
    """
    best, found = out / BEST, place(out, number)
    if (best / checkpoint.RECORD).is_file() and number_of(best) == number:
        return
    shutil.rmtree(best, ignore_errors=True)
    if copy:
        beside = out / f"{BEST}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        found = Path(shutil.copytree(found, beside))
    found.rename(best)


def number_of(folder: Path) -> int:
    """Return the number of the trial that a checkpoint comes from."""
    return int(Path(checkpoint.read_record(folder)["settings"]["out"]).name)
