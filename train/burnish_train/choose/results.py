"""What a search found: a table of its trials, the same as files, a picture, and the best as a recipe.

>>> print(table(rows(study), "accuracy"))  # doctest: +SKIP
trial  state   accuracy  seconds  learning_rate  num_train_epochs
    7  done      0.9312     41.0      0.0002113                 5
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from burnish_serve.writing import RowWriter, write_text
from burnish_train.config import TrainConfig

STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
ORDER = ("done", "pruned", "failed")
RECIPE = "best.toml"
# Settings that a recipe leaves to whoever uses it.
OF_PLACE = {"model", "train", "dev", "test", "out", "device"}
PLOTS_A_LINE = 3


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    """Return a row for each finished trial: whole ones first, and the best of them before all."""
    found = [
        {
            "number": trial.number,
            "state": STATES[trial.state],
            "score": trial.value,
            "epochs": len(trial.intermediate_values),
            "seconds": trial.user_attrs["seconds"],
            "error": trial.user_attrs.get("error"),
            "parameters": dict(sorted(trial.params.items())),
        }
        for trial in study.trials
    ]
    return sorted(found, key=lambda row: (ORDER.index(row["state"]), -(row["score"] or 0.0), row["number"]))


def shown(value: Any) -> str:
    """Return a value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def told(parameters: Mapping[str, Any]) -> str:
    """Return the settings of a trial in one line."""
    return ", ".join(f"{name} {shown(value)}" for name, value in sorted(parameters.items()))


def table(found: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return the rows as lines of text."""
    names = list(found[0]["parameters"])
    cells = [["trial", "state", metric, "seconds", *names]]
    for row in found:
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        settings = [shown(row["parameters"][name]) for name in names]
        cells.append([str(row["number"]), row["state"], score, f"{row['seconds']:.1f}", *settings])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def recipe(settings: Mapping[str, Any], searched: Collection[str], said: str) -> str:
    """Return settings as a recipe: those searched or not the default, and no names of data, model and folders.

    Args:
        settings: as ``burnish.json`` holds them.
        searched: their names.
        said: about them, in one line.
    """
    lines = [f"# burnish train {RECIPE} --model ENCODER --train train.jsonl --out runs/a", "#", f"# Searched: {said}."]
    for field in dataclasses.fields(TrainConfig):
        value = settings[field.name]
        if field.name in searched or (field.name not in OF_PLACE and value not in (field.default, None)):
            lines.append(f"{field.name} = {json.dumps(value, ensure_ascii=False)}")  # which TOML reads alike
    return "\n".join(lines) + "\n"


def write(out: Path, found: Sequence[Mapping[str, Any]], said: str) -> None:
    """Write ``trials.jsonl``, ``trials.csv`` and the recipe, each of which appears when it is whole."""
    with RowWriter(out / "trials.jsonl") as writer:
        writer.write(found)
    flat = [{**{key: row[key] for key in row if key != "parameters"}, **row["parameters"]} for row in found]
    with RowWriter(out / "trials.csv") as writer:
        writer.write(flat)
    write_text(out / RECIPE, said)


def draw(study: optuna.Study, path: Path, metric: str) -> None:
    """Draw the score over trials with the best so far, and the score against each setting, into a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    trials = [trial for trial in study.trials if trial.value is not None]
    distributions = dict(sorted(trials[0].distributions.items()))
    lines = -(-len(distributions) // PLOTS_A_LINE)
    figure = Figure(figsize=(10, 3.2 * (1 + lines)), layout="constrained")
    places = figure.add_gridspec(1 + lines, PLOTS_A_LINE)
    first = figure.add_subplot(places[0, :])
    _scatter(first, trials, [trial.number for trial in trials])
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = [max(trial.value for trial in whole[: end + 1]) for end in range(len(whole))]
    first.step([trial.number for trial in whole], best, where="post", color="tab:green", label="best so far")
    first.set_xlabel("trial")
    first.set_ylabel(f"dev {metric}")
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    first.legend()
    for number, (name, drawn) in enumerate(distributions.items()):
        axes = figure.add_subplot(places[1 + number // PLOTS_A_LINE, number % PLOTS_A_LINE], sharey=first)
        values = [trial.params[name] for trial in trials]
        if isinstance(drawn, CategoricalDistribution):
            choices = list(drawn.choices)
            values = [choices.index(value) for value in values]
            axes.set_xticks(range(len(choices)), [shown(choice) for choice in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        elif drawn.log:
            axes.set_xscale("log")
        _scatter(axes, trials, values)
        axes.set_xlabel(name)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def _scatter(axes: Any, trials: Sequence[Any], values: Sequence[Any]) -> None:
    """Draw scores, those of pruned trials hollow."""
    for state, filled in ((TrialState.COMPLETE, "tab:blue"), (TrialState.PRUNED, "none")):
        some = [(value, trial.value) for value, trial in zip(values, trials, strict=True) if trial.state == state]
        if some:
            axes.scatter(*zip(*some, strict=True), facecolors=filled, edgecolors="tab:blue", label=STATES[state])
