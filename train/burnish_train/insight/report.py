"""The report of a training run: one page in HTML that shows what was learned, from what, and where it goes wrong.

It stands in the checkpoint as ``report.html``, beside the dev rows whose texts it shows. It needs no other file and no
network, goes with a light and a dark desk, and says in tables what its pictures show.

>>> write(Path("runs/a/report.html"), record, dev)  # doctest: +SKIP
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve.config import flag_name
from burnish_serve.evaluation import SHARES, wilson
from burnish_train.config import TrainConfig
from burnish_train.insight import classes, plots
from burnish_train.insight.answered import Answered
from burnish_train.insight.hardest import LOSSES, hardest
from burnish_train.insight.markup import Cell, Section, figure, folded, items, number, page, paragraph, side, table
from burnish_train.pretrain_config import PretrainConfig

HARDEST = 25
Record = Mapping[str, Any]


def write(path: Path, record: Record, dev: Answered) -> None:
    """Write the report of a run.

    Args:
        path: of the page.
        record: contents of ``burnish.json``.
        dev: the dev rows, as they were answered; there may be none.
    """
    path.write_text(report(record, dev), encoding="utf-8", errors="replace")  # half an emoji is no UTF-8


def report(record: Record, dev: Answered) -> str:
    """Return the page; see `write`."""
    labels = f", {len(record['labels'])} labels" if dev.task.labelled and len(record["labels"]) > 1 else ""
    begun = (
        f"{record['task']}{labels}, from {record['base_model'] or 'nothing but texts'}: {record['steps']} steps, "
        f"{record['seconds']:.0f} s. Written by burnish {record['machine']['burnish']}."
    )
    shown = "The texts in it are dev rows: give it to those alone who may see them."
    sections = [_scores(record, len(dev.examples)), _curves(record, dev.task.metric)]
    if dev.examples:
        sections += [section(dev) for section in SECTIONS[record["task"]]]
        sections.append(_hardest(dev))
    sections += [_data(record, dev), _settings(record), _run(record)]
    return page(f"Training report: {record['task']}", [begun, shown], [section for section in sections if section])


def _scores(record: Record, dev_rows: int) -> Section:
    """Return the metrics of dev and test; shares of right answers with Wilson's interval."""
    splits = record["metrics"]
    counts = {"dev": dev_rows, "test": record["data"].get("test", {}).get("rows", 0)}

    def cell(split: str, name: str) -> Cell:
        value = splits[split].get(name)
        if name not in SHARES or value is None:
            return value
        return f"{number(value)} ({' to '.join(map(number, wilson(value, counts[split])))})"

    names = list(dict.fromkeys(name for one in splits.values() for name, v in one.items() if isinstance(v, float)))
    rows: list[list[Cell]] = [[name, *(cell(split, name) for split in splits)] for name in names]
    if not rows:
        return Section("Scores", [paragraph("There were no dev and no test rows to score on.")])
    return Section("Scores", [table("Scores, with 95 % intervals of shares", ["metric", *splits], rows)])


def _curves(record: Record, metric: str) -> Section | None:
    """Return how losses, dev score and learning rate went; None where nothing was trained, as of a soup."""
    points = record["curve"]
    if not points:
        return None
    scored = [point for point in points if "eval_loss" in point]
    losses = [point["loss"] for point in points if "loss" in point]
    told = f"from {number(losses[0])} to {number(losses[-1])}" if losses else "not logged"
    pictures = [
        figure(
            plots.svg(lambda axes: plots.losses(axes, points), "losses"), "Losses over steps", f"Train loss {told}."
        ),
        figure(plots.svg(lambda axes: plots.rates(axes, points), "rates"), "Learning rate", "Learning rate over steps"),
    ]
    parts = []
    if scored:
        best = record["best_step"]
        key = f"eval_{metric}"
        said = f"Dev {metric} from {number(scored[0][key])} to {number(scored[-1][key])}; the weights of step {best}."
        drawn = plots.svg(lambda axes: plots.scores(axes, points, metric, best), "scores")
        pictures.insert(1, figure(drawn, f"Dev {metric} over steps; the weights of step {best} were kept", said))
        rows = [[point["step"], point["epoch"], point["eval_loss"], point[key]] for point in scored]
        parts.append(folded("The dev scores as a table", table("Evaluations", ["step", "epoch", "loss", metric], rows)))
    return Section("Curves", [side(pictures), *parts])


def _scatter(dev: Answered) -> Section:
    """Return the numbers that were given against those that were wanted."""
    wanted = np.array([dev.target.value(example) for example in dev.examples], dtype=np.float64)
    given = np.array([answer["score"] for answer in dev.answers], dtype=np.float64)
    off = given - wanted
    quantiles = np.percentile(off, [0, 5, 25, 50, 75, 95, 100]).tolist()
    names = ["least", "5 %", "25 %", "median", "75 %", "95 %", "greatest"]
    told = f"Mean residual {number(float(off.mean()))}, mean absolute residual {number(float(np.abs(off).mean()))}."
    dots = plots.svg(lambda axes: plots.scatter(axes, wanted, given), "scatter")
    bars = plots.svg(lambda axes: plots.histogram(axes, off), "residuals")
    some = f", {plots.MOST_POINTS} rows at the most" * (len(wanted) > plots.MOST_POINTS)
    return Section(
        "Residuals",
        [
            paragraph(told),
            side(
                [
                    figure(dots, f"Given against wanted{some}", f"Given against wanted numbers. {told}"),
                    figure(bars, "Residuals", "Histogram of the residuals; the table has their quantiles."),
                ]
            ),
            table("Residuals, given less wanted", ["quantile", "residual"], list(zip(names, quantiles, strict=True))),
        ],
    )


def _hardest(dev: Answered) -> Section | None:
    """Return the rows with the greatest loss; None where rows cannot be ranked."""
    if dev.task.name not in LOSSES:
        return None
    head = ["line", "loss", "text", "right", "answer (score)"]
    rows: list[list[Cell]] = [
        [row + 1, loss, dev.told_text(row), dev.told_right(row), dev.told_answer(row)]
        for row, loss in hardest(dev, HARDEST)
    ]
    said = "Lines are those of dev.jsonl. A row stands here for a wrong label, for two labels that overlap, or for "
    return Section("Hardest rows", [paragraph(said + "what train does not show."), table("Hardest", head, rows)])


def _data(record: Record, dev: Answered) -> Section:
    """Return where the rows come from, how many each label has, and what was to be said of them."""
    rows: list[list[Cell]] = []
    for split, about in record["data"].items():
        cut = f"cut from {about.get('cut_from')}, {about.get('fraction')} by seed {about.get('seed')}"
        left = about.get("rows_left", about["rows"])
        rows.append([split, left, str(about.get("source", cut)), str(about.get("sha256", ""))[:12]])
    parts = [table("Splits", ["split", "rows", "source", "sha256"], rows)]
    counts = collections.Counter(name for example in dev.train for name in dev.task.names(example.right))
    if counts:
        few, many = min(counts.values()), max(counts.values())
        middle = statistics.median(counts.values())
        parts.append(paragraph(f"{len(counts)} labels of {few} to {many} train rows each, a median of {middle:g}."))
    parts.append(items(record["warnings"]) if record["warnings"] else paragraph("There was nothing to warn of."))
    return Section("Data", parts)


def _settings(record: Record) -> Section:
    """Return the settings that are not the default."""
    kind = TrainConfig if record["base_model"] else PretrainConfig
    rows = [
        [flag_name(item.name), str(given), "" if item.default in (dataclasses.MISSING, None) else str(item.default)]
        for item in dataclasses.fields(kind)
        if (given := record["settings"].get(item.name, item.default)) != item.default
    ]
    return Section("Settings", [table("Settings other than the default", ["setting", "value", "default"], rows)])


def _run(record: Record) -> Section:
    """Return what it ran on, for how long, and of what it is a mean."""
    soup = record.get("soup", {"members": [], "taken": []})
    told = {key: record[key] for key in ("seconds", "steps", "best_step", "precision", "seed", "max_length")}
    told |= record["machine"] | {f"{name} (version)": version for name, version in record["versions"].items()}
    rows = [[key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)] for key, value in told.items()]
    parts = [table("Run and machine", ["what", "value"], rows)]
    if soup["members"]:
        head = [*soup["members"][0], "taken"]
        members = [[*one.values(), "yes" if one["checkpoint"] in soup["taken"] else "no"] for one in soup["members"]]
        parts.insert(0, table("Members of the mean", head, members))
    return Section("Run", parts)


SECTIONS: dict[str, tuple[Callable[[Answered], Section], ...]] = {
    "text-classification": (classes.confusion, classes.per_class, classes.calibration),
    "relation-extraction": (classes.confusion, classes.per_class, classes.calibration),
    "multi-label-classification": (classes.per_class,),
    "regression": (_scatter,),
    "feature-extraction": (_scatter,),
    "token-classification": (classes.per_class,),
    "question-answering": (),
    "fill-mask": (),
}
"""What is shown of each task's dev rows, besides the hardest."""
