"""The settings of ``burnish train-multitask``: what all tasks share at a recipe's top, and a table for each task.

>>> read_recipe(Path("tasks.toml"), model="encoder/", out=Path("runs/both"))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from burnish_serve.config import configure, dataclass, read_toml, setting
from burnish_serve.errors import InputError
from burnish_train.config import TrainConfig

TABLES = "tasks"
OF_TASK = (
    "task",
    "train",
    "dev",
    "test",
    "text_column",
    "label_column",
    "pooling",
    "label_smoothing_factor",
    "focal_gamma",
    "class_weights",
    "tag_scheme",
    "label_inner_words",
    "reject_label",
    "reject_max_drop",
)
"""Settings of training that stand in a task's table alone."""
OF_BOTH = ("dev_fraction", "max_length", "on_long", "stride")
"""Those that a task may have otherwise than the others."""
WITHOUT = (
    "keep_layers",
    "keep_feed_forward",
    "keep_heads",
    "trim_vocabulary",
    "vocabulary_texts",
    "contrastive_steps",
    "contrastive_learning_rate",
    "teacher",
    "distill_alpha",
    "distill_temperature",
    "distill_hidden",
    "distill_attention",
    "unlabelled",
    "label_spreading",
    "pseudo_label_threshold",
    "augment",
    "augment_copies",
    "augment_share",
    "augment_model",
    "quantize_aware",
    "mlm_probability",
    "whole_word_masking",
    "pack_texts",
    "torch_compile",
    "attn_implementation",
)
"""Those that are for one task alone."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How the tasks' batches are mixed."""

    task_sampling_temperature: float = setting(
        "1 takes each row once an epoch; more takes more of the tasks with few rows, and less of the others",
        default=1.0,
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a task's table says besides settings of training."""

    name: str = setting("name of the task, and of its checkpoint's folder")
    weight: float = setting("what its loss counts", default=1.0, minimum=0.001)


@dataclass(frozen=True, kw_only=True)
class MultitaskConfig:
    """What is learned together."""

    out: Path
    """Folder of the checkpoints' folders."""
    tasks: Mapping[str, TrainConfig]
    """The settings of each task by its name; those that concern neither rows nor head are the same in all."""
    weights: Mapping[str, float]
    """What the loss of each task counts."""
    mix: MixConfig = MixConfig()

    def __post_init__(self) -> None:
        """Refuse names that are no folders, and tasks that do not learn together."""
        if len(self.tasks) < 2:
            raise InputError(f"at least two tasks learn together, not {len(self.tasks)}; one alone is burnish train's")
        for name, settings in self.tasks.items():
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
                raise InputError(f"the task's name {name!r} is no folder's; take letters, digits, '-' and '_'")
            if settings.task == "fill-mask":
                raise InputError(
                    f"the task {name!r} is fill-mask, whose score is no share and has no mean with others; let the "
                    "encoder learn it first, by burnish train"
                )

    @property
    def shared(self) -> TrainConfig:
        """Return settings that hold for all tasks, beside others of the first."""
        return next(iter(self.tasks.values()))


def read_recipe(path: Path, **given: Any) -> MultitaskConfig:
    """Return the config from a recipe and from flags; a flag that is not None wins over the recipe's top.

    Raises:
        InputError: with all that is wrong.
    """
    top = read_toml(path)
    tables = top.pop(TABLES, [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path} names no tasks: give a table [[{TABLES}]] for each")
    refuse(top, OF_TASK, str(path), f"is for one task: set it in a table [[{TABLES}]]")
    refuse(top, WITHOUT, str(path), "is not for several tasks")
    own = {item.name for item in dataclasses.fields(MixConfig)}
    parts = [{k: v for k, v in some.items() if k in own} for some in (top, given)]
    rest = [{k: v for k, v in some.items() if k not in own} for some in (top, given)]
    mix = configure(MixConfig, parts[0], source=str(path), **parts[1])
    shared = configure(TrainConfig, {**rest[0], "train": ""}, source=str(path), **rest[1])
    read, problems = [], []
    for number, table in enumerate(tables, 1):
        try:
            read.append(_read_table(table, shared, f"{path}, task {table.get('name', number)}"))
        except InputError as error:  # said with those of the other tables
            problems.append(str(error))
    names = [named.name for named, _ in read]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"{path}: several tasks are named {name!r}" for name in twice]
    if problems:
        raise InputError("; ".join(problems))
    return MultitaskConfig(
        out=shared.out,
        tasks={named.name: settings for named, settings in read},
        weights={named.name: named.weight for named, _ in read},
        mix=mix,
    )


def _read_table(table: Mapping[str, Any], shared: TrainConfig, where: str) -> tuple[Named, TrainConfig]:
    """Return what a task's table says of it, and its settings of training."""
    refuse(table, WITHOUT, where, "is not for several tasks")
    fields = {item.name for item in dataclasses.fields(TrainConfig)}
    refuse(table, fields - {*OF_TASK, *OF_BOTH}, where, "is shared by all tasks: set it above their tables")
    if "train" not in table:
        raise InputError(f"{where}: train is missing, the rows that this task learns from")
    own = {item.name for item in dataclasses.fields(Named)}
    named = configure(Named, {k: v for k, v in table.items() if k in own}, source=where)
    common = {k: v for k, v in dataclasses.asdict(shared).items() if k not in OF_TASK}
    values = {**common, **{k: v for k, v in table.items() if k not in own}, "out": shared.out / named.name}
    return named, configure(TrainConfig, values, source=where)


def refuse(values: Mapping[str, Any], keys: Collection[str], where: str, why: str) -> None:
    """Refuse keys where they have no use.

    Raises:
        InputError: with those that are there.
    """
    if wrong := [key for key in values if key in keys]:
        raise InputError(f"{where}: " + "; ".join(f"{key} {why}" for key in wrong))
