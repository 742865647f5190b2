"""The space of a search: which settings are tried, and from what, as the table ``[search]`` of a recipe says it.

A list is a choice, and a table with ``low`` and ``high`` is a range; it may have ``log = true`` or a ``step``. All that
is wrong is said at once, before the first run.

>>> space({"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}, config)  # doctest: +SKIP
{'learning_rate': FloatDistribution(high=0.001, log=True, low=1e-05, step=None)}
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from burnish_serve.config import check, read_toml
from burnish_serve.errors import InputError
from burnish_serve.tasks import TASKS
from burnish_train.choose.config import FIXED
from burnish_train.config import SEARCH, TrainConfig

KEYS = {"low", "high", "log", "step"}
DEFAULT: dict[str, Any] = {
    "learning_rate": {"low": 2e-5, "high": 1e-3, "log": True},
    "num_train_epochs": [3.0, 5.0, 8.0],
    "per_device_train_batch_size": [16, 32, 64],
    "warmup_ratio": {"low": 0.0, "high": 0.2},
}
"""What is tried where a recipe has no table: what matters most to an encoder of any size."""
OF_LABELS: dict[str, Any] = {"label_smoothing_factor": {"low": 0.0, "high": 0.2}}
"""Besides, where labels are learned."""


def read_table(recipe: Path | None) -> dict[str, Any] | None:
    """Return the table ``[search]`` of a recipe, None where it has none.

    Raises:
        InputError: the recipe cannot be read, or ``search`` is no table.
    """
    table = read_toml(recipe).get(SEARCH) if recipe else None
    if table is not None and not isinstance(table, dict):
        raise InputError(f"{recipe}: search must be a table of settings, not {table!r}")
    return table


def space(table: Mapping[str, Any] | None, config: TrainConfig, source: str = "") -> dict[str, BaseDistribution]:
    """Return what each searched setting is drawn from, sorted by name.

    Args:
        table: setting to list or range; None for the settings that matter most.
        config: the settings that all trials share.
        source: the recipe's name, for messages.

    Raises:
        InputError: with everything that is wrong: unknown settings, values out of bounds or of no use to the task.
    """
    task = TASKS[config.task]
    if table is None:
        learns_labels = "classification" in (task.problem_type or "") or (task.per_token and task.labelled)
        table = DEFAULT | (OF_LABELS if learns_labels else {})
    known = {field.name for field in dataclasses.fields(TrainConfig)} - FIXED
    problems = [] if table else ["[search] names no setting"]
    if unknown := sorted(set(table) - known):
        names = ", ".join(map(repr, unknown))
        problems.append(f"[search] has no use for {names} (it may have: {', '.join(sorted(known))})")
    found: dict[str, BaseDistribution] = {}
    for name in sorted(set(table) & known):
        drawn, wrong = _drawn_from(name, table[name])
        wrong = wrong or [problem for value in _ends(drawn) if (problem := _refused(config, name, value))]
        problems += [f"[search] {problem}" for problem in wrong]
        if drawn is not None:
            found[name] = drawn
    if problems:
        raise InputError((f"{source}: " if source else "") + "; ".join(problems))
    return found


def _drawn_from(name: str, given: Any) -> tuple[BaseDistribution | None, list[str]]:
    """Return what a setting is drawn from, and what is wrong with it."""
    if isinstance(given, list):
        checked = [check(TrainConfig, name, value) for value in given]
        if problems := [problem for _, problem in checked if problem]:
            return None, problems
        values = [value for value, _ in checked]
        if not values or isinstance(values[0], tuple) or len(set(values)) < len(values):
            return None, [f"{name} must be a list of different single values, not {given!r}"]
        return CategoricalDistribution(values), []
    if not isinstance(given, dict) or not {"low", "high"} <= set(given) <= KEYS:
        return None, [f"{name} must be a list, or a table of low and high, and log or step, not {given!r}"]
    log, step = given.get("log", False), given.get("step")
    (low, first), (high, second) = (check(TrainConfig, name, given[end]) for end in ("low", "high"))
    if problems := [problem for problem in (first, second) if problem]:
        return None, problems
    if not isinstance(low, int | float) or isinstance(low, bool):
        return None, [f"{name} has no range: give a list of values"]
    if not isinstance(log, bool):
        return None, [f"{name}: log must be true or false, not {log!r}"]
    if log and (step is not None or low <= 0):
        return None, [f"{name}: a range with log begins above 0 and has no step"]
    if not low < high < math.inf:
        return None, [f"{name}: low must be below high, not {low} and {high}"]
    whole = isinstance(low, int)
    kinds = (int,) if whole else (int, float)
    if step is not None and (not isinstance(step, kinds) or isinstance(step, bool) or not 0 < step <= high - low):
        kind = "whole number from 1" if whole else "number above 0 and up"
        return None, [f"{name}: step must be a {kind} to high - low, not {step!r}"]
    with warnings.catch_warnings():  # where the last step ends before it, optuna moves high there, and says so
        warnings.simplefilter("ignore")
        if whole:
            return IntDistribution(low, high, log=log, step=step or 1), []
        return FloatDistribution(low, high, log=log, step=step), []


def _ends(drawn: BaseDistribution | None) -> list[Any]:
    """Return the values that tell whether all can be taken."""
    if drawn is None:
        return []
    return list(drawn.choices) if isinstance(drawn, CategoricalDistribution) else [drawn.low, drawn.high]


def _refused(config: TrainConfig, name: str, value: Any) -> str | None:
    """Return why a task has no use for a value."""
    try:
        dataclasses.replace(config, **{name: value})
    except InputError as error:
        return str(error)
    return None


def grid(found: Mapping[str, BaseDistribution]) -> dict[str, list[Any]]:
    """Return the values of each setting, for a search that tries them all.

    Raises:
        InputError: a range has no step.
    """
    values: dict[str, list[Any]] = {}
    for name, drawn in found.items():
        if isinstance(drawn, CategoricalDistribution):
            values[name] = list(drawn.choices)
        elif drawn.step and not drawn.log:
            count = round((drawn.high - drawn.low) / drawn.step) + 1
            values[name] = [min(drawn.low + number * drawn.step, drawn.high) for number in range(count)]
    if without := sorted(set(found) - set(values)):
        raise InputError(f"a grid needs lists, or ranges with a step; give them for {', '.join(without)} in [search]")
    return values


def most_epochs(found: Mapping[str, BaseDistribution], config: TrainConfig) -> int:
    """Return how many epochs a trial takes at the most."""
    drawn = found.get("num_train_epochs")
    return math.ceil(max(_ends(drawn)) if drawn else config.num_train_epochs)
