"""The working folder of a run, ``OUT.partial``: made, or taken up again where a killed run left it.

Trainer's checkpoints stand in it. A run is only taken up with the settings and the rows that it was begun with.

>>> last = prepare(Path("runs/a.partial"), config, splits, resume=True, overwrite=False)  # doctest: +SKIP
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_serve.writing import write_text
from burnish_train import checkpoint
from burnish_train.config import TrainConfig
from burnish_train.data import Splits
from burnish_train.device import KEPT as PRECISION

SETTINGS = "config.json"
SECONDS = "seconds.json"
NEW_PLACE = {"out", "device"}  # what a resumed run may have otherwise


def prepare(work: Path, config: TrainConfig, splits: Splits, *, resume: bool, overwrite: bool) -> str | None:
    """Make the working folder and return the Trainer checkpoint to go on from, if there is one.

    Raises:
        InputError: something stands in the way that only the user can decide on.
    """
    rows = {f"rows of {name}": about.get("sha256") for name, about in splits.sources.items()}
    check_place(config.out, overwrite=overwrite)
    return take_up(work, {**to_dict(config), **rows}, resume=resume, overwrite=overwrite)


def take_up(work: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> str | None:
    """Make a working folder for a run with these settings, or find one; return the Trainer checkpoint to go on from.

    Raises:
        InputError: the folder cannot be made, or holds an unfinished run that is not to be gone on with so.
    """
    begun = any(work.glob("checkpoint-*/trainer_state.json"))
    if work.exists() and not resume and (overwrite or not begun):
        shutil.rmtree(work)
    if work.exists() and not resume:
        raise InputError(f"{work} holds an unfinished run; --resume goes on with it, --overwrite starts again")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {work}: {error.strerror}") from error
    keep_settings(work, settings, begun=begun)
    if not begun:
        (work / PRECISION).unlink(missing_ok=True)  # chosen on a machine that did nothing more
    return last_whole(work)


def keep_settings(work: Path, settings: dict[str, Any], *, begun: bool) -> None:
    """Write down what the work of a folder is done with; work that was begun must go on with the same.

    Raises:
        InputError: it was begun with other settings or rows.
    """
    path = work / SETTINGS
    if begun and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k in settings if k not in NEW_PLACE and before.get(k) != settings[k]]
        if changed:
            listed = ", ".join(f"{key} was {before.get(key)!r} and is {settings[key]!r}" for key in changed)
            raise InputError(f"{work} was begun with other settings: {listed}; --overwrite starts again")
    else:  # never written twice: a full disk would leave it empty
        write_text(path, json.dumps(settings, indent=1))


def last_whole(work: Path) -> str | None:
    """Return the last of Trainer's checkpoints that were written to their end; what a full disk cut off is removed."""
    for folder in work.glob("checkpoint-*"):
        if not _is_whole(folder):
            shutil.rmtree(folder)
    return get_last_checkpoint(str(work)) if work.is_dir() else None


def seconds_of(work: Path) -> float:
    """Return how long the starts of a run had taken when it last saved, together; 0 where nothing was saved."""
    try:
        return float(json.loads((work / SECONDS).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # not yet, or lost with the power
        return 0.0


def check_place(out: Path, *, overwrite: bool, record: str = checkpoint.RECORD, what: str = "a checkpoint") -> None:
    """Refuse to write over what stands at a place, unless that was made by us and may be replaced.

    Args:
        out: the place.
        overwrite: whether what was made by us may be replaced.
        record: the file by which that is known.
        what: its name, for messages.

    Raises:
        InputError: something stands there.
    """
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; give another --out, or --overwrite to replace it")
    if out.exists() and not (out / record).is_file():
        raise InputError(f"{out} is not {what} of burnish, so --overwrite does not replace it")


def _is_whole(folder: Path) -> bool:
    """Return whether Trainer's checkpoint was written to its end, which is its state."""
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
