"""The settings of ``burnish cross-validate`` besides those of the training that it repeats.

>>> read_settings(Path("train/recipes/intent.toml"), train="train.jsonl", out=Path("runs/cv"))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from burnish_serve.config import configure, dataclass, read_toml, setting
from burnish_serve.errors import InputError
from burnish_train.config import TrainConfig

WITHOUT = ("dev", "test")
"""Settings of training that the folds take the place of."""


@dataclass(frozen=True, kw_only=True)
class FoldsConfig:
    """How the rows are split."""

    folds: int = setting("parts that the rows are split into; each is held out once", default=5, minimum=2)
    group_column: str | None = setting("column of a group whose rows are held out together", default=None)
    leave_one_out: bool = setting("hold out each text, or group, alone: as many runs as there are", default=False)
    keep_checkpoints: bool = setting("keep the checkpoint of each fold beside the scores", default=False)


def read_settings(path: Path | None, **given: Any) -> tuple[TrainConfig, FoldsConfig]:
    """Return both configs from a recipe, which may name what concerns the folds too, and from flags, which win.

    Raises:
        InputError: with all that is wrong, or the recipe names dev or test rows.
    """
    values = read_toml(path) if path else {}
    if named := [name for name in WITHOUT if name in values]:
        raise InputError(f"{path} names {' and '.join(named)} rows; cross-validation holds out rows of train instead")
    own = {item.name for item in dataclasses.fields(FoldsConfig)}
    source = str(path) if path else ""
    parts = [{k: v for k, v in some.items() if k in own} for some in (values, given)]
    rest = [{k: v for k, v in some.items() if k not in own} for some in (values, given)]
    return (
        configure(TrainConfig, rest[0], source=source, **rest[1]),
        configure(FoldsConfig, parts[0], source=source, **parts[1]),
    )
