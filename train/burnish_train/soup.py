"""A model soup: one checkpoint with the mean of the weights of several that began with the same encoder.

Runs that differ in their seed, or in a setting or two, end around one valley of the loss; the middle of it answers
better than each, and costs no more than one (Wortsman et al., 2022, arXiv:2203.05482).

>>> soup(["runs/a", "runs/b", "runs/c"], Path("runs/soup"))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from burnish_serve import machine
from burnish_serve.config import configure
from burnish_serve.errors import InputError
from burnish_serve.rows import read_rows
from burnish_serve.runner import Runner
from burnish_serve.tasks import Decoding
from burnish_train import checkpoint
from burnish_train.config import TrainConfig
from burnish_train.data import Example, read_examples
from burnish_train.device import use_cuda
from burnish_train.insight import report
from burnish_train.insight.answered import Answered
from burnish_train.kinds import KINDS
from burnish_train.methods.silent import silent_heads
from burnish_train.targets import Target
from burnish_train.work import check_place

ALIKE = ("task", "labels", "pooling", "pooling_tokens", "max_length")
"""What the records of all members say alike."""


def soup(
    checkpoints: Sequence[str | Path],
    out: Path,
    *,
    dev: str | None = None,
    greedy: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Average the weights of checkpoints, fit on dev rows what training fits there, and write a checkpoint.

    Args:
        checkpoints: folders that ``burnish train`` wrote from one encoder, for one task with one set of labels.
        out: folder to write.
        dev: labelled rows to score on; the members' own where all have the same.
        greedy: take the members from the best to the worst, and leave out each that makes the mean no better on the
            dev rows.
        device: ``cpu``, ``cuda`` or ``auto``.
        overwrite: replace the checkpoint at ``out``.
        log: called with one line of text for each score.

    Returns:
        The contents of ``burnish.json``; its ``seconds`` are those of the members and of the soup.

    Raises:
        InputError: the checkpoints do not go together, have different dev rows, or ``out`` is taken.
        DeviceError: the device cannot be used.
    """
    started = time.perf_counter()
    say = log or (lambda line: None)
    folders = [Path(folder) for folder in checkpoints]
    if len(set(folders)) < 2:
        raise InputError("a soup is made of two checkpoints or more")
    check_place(out, overwrite=overwrite)
    checkpoint.quiet()
    records = [checkpoint.read_record(folder) for folder in folders]
    _check_alike(folders, records)
    bowl = Bowl(folders, records[0], _dev_rows(folders, records[0], dev), device)
    metric = bowl.runner.task.metric
    alone = [bowl.scores([member])[metric] for member in range(len(folders))]
    for folder, score in zip(folders, alone, strict=True):
        say(f"{folder}: dev {metric} {score:.4f}")
    order = sorted(range(len(folders)), key=lambda member: -alone[member])
    chosen = order[:1]
    for member in order[1:]:
        if not greedy or bowl.scores([*chosen, member])[metric] > bowl.scores(chosen)[metric]:
            chosen.append(member)
    metrics = bowl.scores(chosen)
    say(f"mean of {len(chosen)} of {len(folders)}: dev {metric} {metrics[metric]:.4f}")
    members = [
        {"checkpoint": str(folder), "seed": record["seed"], "seconds": record["seconds"], metric: score}
        for folder, record, score in zip(folders, records, alone, strict=True)
    ]
    record = {
        **records[0],
        "decoding": dataclasses.asdict(bowl.runner.reading.decoding),
        "soup": {"greedy": greedy, "members": members, "taken": [str(folders[member]) for member in sorted(chosen)]},
        "steps": sum(one["steps"] for one in records),
        "best_step": None,
        "metrics": {"dev": metrics},
        "curve": [],
        "machine": machine.description(),
        "seconds": round(sum(one["seconds"] for one in records) + time.perf_counter() - started, 1),
    }
    _write(out, folders[0], bowl, record)
    return record


class Bowl:
    """The members' weights in one model, and the rows that each mixture is scored on.

    Args:
        folders: the members.
        record: ``burnish.json`` of the first.
        rows: the dev rows.
        device: ``cpu``, ``cuda`` or ``auto``.
    """

    def __init__(self, folders: Sequence[Path], record: dict[str, Any], rows: list[Example], device: str) -> None:
        self.folders = folders
        self.rows = rows
        self.model = checkpoint.load_model(folders[0]).to("cuda" if use_cuda(device) else "cpu")
        self.runner: Runner = checkpoint.opened(folders[0], self.model)
        self.range = Decoding(**record["decoding"]).score_range
        settings = dataclasses.replace(configure(TrainConfig, record["settings"]), class_weights="none")
        self.target: Target = KINDS[record["task"]](self.runner.task, settings, record["labels"], rows)
        self.target.meet(self.runner)
        self.asked = self.runner.examine([row.asked for row in rows])

    def scores(self, members: Sequence[int]) -> dict[str, Any]:
        """Return the scores of the mean of some members on the dev rows; model and decoding are theirs from then on."""
        self.model.load_state_dict(self._mean(members))
        self.dev = Answered.of(self.target, self.runner, self.asked, self.rows)
        if self.range:  # that of all train rows
            decoding = dataclasses.replace(self.runner.reading.decoding, score_range=self.range)
            self.runner.reading = self.runner.reading.with_decoding(decoding)
        return self.dev.metrics

    def _mean(self, members: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the mean of the members' weights; what is no number of floating point is that of the first."""
        sums: dict[str, torch.Tensor] = {}
        for member in members:
            for name, weight in checkpoint.load_model(self.folders[member]).state_dict().items():
                if name not in sums:
                    sums[name] = weight.clone()
                elif weight.is_floating_point():
                    sums[name] += weight
        return {name: total / len(members) if total.is_floating_point() else total for name, total in sums.items()}


def _check_alike(folders: Sequence[Path], records: Sequence[dict[str, Any]]) -> None:
    """Refuse checkpoints that do not speak of the same labels, tokens and weights."""
    first = records[0]
    if first.get("base_model") is None:
        raise InputError(f"{folders[0]} was pretrained from nothing; a soup is made of checkpoints of burnish train")
    shapes, silent = _shapes(folders[0])
    for folder, record in zip(folders[1:], records[1:], strict=True):
        for key in ALIKE:
            if record.get(key) != first.get(key):
                raise InputError(f"{folder} and {folders[0]} do not go together: they differ in {key}")
        if (folder / "tokenizer.json").read_bytes() != (folders[0] / "tokenizer.json").read_bytes():
            raise InputError(f"{folder} and {folders[0]} do not go together: they have different tokenizers")
        own = _shapes(folder)
        if own[0] != shapes:
            raise InputError(f"{folder} and {folders[0]} do not go together: their weights have different shapes")
        if own[1] != silent:
            raise InputError(f"{folder} and {folders[0]} do not go together: keep_heads left out different heads")


def _shapes(folder: Path) -> tuple[dict[str, tuple[int, ...]], list[list[int]]]:
    """Return the shapes of a checkpoint's weights, and the heads of each layer that are silent."""
    model = checkpoint.load_model(folder)
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}, silent_heads(model)


def _dev_rows(folders: Sequence[Path], record: dict[str, Any], dev: str | None) -> list[Example]:
    """Return the rows to score on.

    Raises:
        InputError: the members have rows that differ, or none, and none are given.
    """
    settings = configure(TrainConfig, record["settings"])
    if dev:
        return read_examples(dev, "dev", settings, [])
    own = [folder / "dev.jsonl" for folder in folders]
    other = next((path for path in own if path.read_bytes() != own[0].read_bytes()), None)
    if other:
        raise InputError(
            f"{own[0]} and {other} hold different rows, and some of them were trained on by the other; "
            "give --dev with rows that none was trained on, and train with --dev the next time"
        )
    if not own[0].read_bytes():
        raise InputError(f"{own[0]} holds no rows: give --dev")
    return read_examples(str(own[0]), "dev", dataclasses.replace(settings, text_column="text", label_column=None), [])


def _write(out: Path, first: Path, bowl: Bowl, record: dict[str, Any]) -> None:
    """Write the checkpoint beside its place and rename it."""
    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        task = bowl.runner.task
        rows = {
            "dev.jsonl": [row.as_row(task) for row in bowl.rows],
            "calibration.jsonl": [row for _, row in read_rows(str(first / "calibration.jsonl"))],
        }
        tokenizer = transformers.AutoTokenizer.from_pretrained(first)
        report.write(work / "report.html", record, bowl.dev)
        checkpoint.write(work, tokenizer, bowl.model.cpu(), record, rows)
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    except BaseException:  # Ctrl-C too: nothing half-written stays
        shutil.rmtree(work, ignore_errors=True)
        raise
