"""The rows that an export works with, and what it finds out about each variant on them.

>>> rows = read_evidence(config, source, encoder)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish_export.config import ExportConfig
from burnish_export.proof import Proof
from burnish_export.source import Source
from burnish_serve.errors import InputError
from burnish_serve.evaluation import Labelled, read_labelled
from burnish_serve.rows import read_rows
from burnish_serve.runner import Runner
from burnish_serve.session import Session
from burnish_serve.tasks import Answer, Asked, Encoded, Outputs

CALIBRATION_ROWS = 10_000
GOLDEN_ROWS = 8
FALLBACK_TEXTS = ("a short text", "Another text, somewhat longer than the first one.", "?")


# The autopilot tries each candidate on so many tokens of the evaluation rows; the variants are scored on all of them.
SEARCH_TOKENS = 40_000
# Numbers that a variant's outputs may have where a token has as many as a vocabulary has words: 256 MB.
EVALUATION_VALUES = 2**26


@dataclass(frozen=True)
class Made:
    """A variant with what was found out about it."""

    runner: Runner
    proof: Proof
    outputs: Outputs
    """Of the evaluation rows."""
    answers: list[Answer]
    """To the evaluation rows."""
    score: float | None
    batch_invariant: bool


@dataclass(frozen=True)
class Evidence:
    """The rows that an export works with."""

    labelled: list[Labelled]
    evaluation: list[Asked]
    calibration: list[Asked]
    golden: tuple[dict[str, Any], ...]

    @property
    def any(self) -> list[Asked]:
        """Whatever real rows there are."""
        return self.evaluation or self.calibration


def read_evidence(config: ExportConfig, source: Source, reference: Runner) -> Evidence:
    """Return evaluation, calibration and golden rows, from the flags or from the checkpoint's own files."""

    def own(name: str) -> str | None:
        path = source.folder / name if source.folder else None
        return str(path) if path and path.is_file() and path.stat().st_size else None

    evaluation = config.eval or own("dev.jsonl")
    columns = (config.text_column, config.label_column) if config.eval else ("text", None)
    labelled = (
        read_labelled(evaluation, source.task, reference.reading.known, text_column=columns[0], label_column=columns[1])
        if evaluation
        else []
    )
    calibration = config.calibrate or own("calibration.jsonl")
    column = config.text_column if config.calibrate else "text"
    rows: list[dict[str, Any]] = []
    for number, row in read_rows(calibration) if calibration else []:
        rows.append(source.task.asked(row, f"{calibration}:{number}", column))
        source.task.texts(rows[-1], f"{calibration}:{number}")
        if len(rows) == CALIBRATION_ROWS:
            break
    if calibration and not rows:
        raise InputError(f"{calibration} has no rows")
    fallback = [dict.fromkeys(source.task.columns[-1], text) for text in FALLBACK_TEXTS]
    golden = [example.asked for example in labelled] or rows or fallback
    evaluation_rows = reference.examine([example.asked for example in labelled])
    step = _step(evaluation_rows, source, reference)
    return Evidence(
        labelled=labelled[::step],
        evaluation=evaluation_rows[::step],
        calibration=reference.examine(rows),
        golden=tuple(golden[:GOLDEN_ROWS]),
    )


def _step(asked: Sequence[Asked], source: Source, reference: Runner) -> int:
    """Return of how many evaluation rows one is taken: more than one where all their outputs would fill the memory."""
    if source.task.keep is None:
        return 1
    kept = sum(len(source.task.keep(window, reference.reading)) for window in windows(asked))
    return max(1, -(-kept * source.network.width // EVALUATION_VALUES))


def windows(asked: Sequence[Asked]) -> list[Encoded]:
    """Return what the model reads of rows."""
    return [window for row in asked for window in row.windows]


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where variants are made and tried: the float32 graph, a folder, the rows, and PyTorch's answers to them."""

    source: Source
    work: Path
    """The bundle in the making."""
    folder: Path
    """For graphs that are tried and thrown away."""
    fp32: Path
    reference: Runner
    evidence: Evidence
    wanted: Outputs
    """PyTorch's outputs of the evaluation rows."""
    answers: list[Answer]
    """PyTorch's answers to them."""

    @property
    def metric(self) -> str:
        """Return the name of the task's metric."""
        return self.source.task.metric

    def path(self, name: str) -> Path:
        """Return where a file of the bundle goes."""
        return self.work / name

    def runner(self, session: Session, name: str) -> Runner:
        """Return a runner that differs from the reference in its session alone."""
        return Runner(
            task=self.source.task,
            labels=self.source.labels,
            decoding=self.source.decoding,
            encoder=self.reference.encoder,
            session=session,
            inputs=self.source.network.inputs,
            pad_token_id=self.source.network.pad_token_id,
            variant=name,
        )

    def score(self, labelled: Sequence[Labelled], answers: Sequence[Answer]) -> float | None:
        """Return the task's metric for answers to labelled rows; None where there are none."""
        if not labelled:
            return None
        metrics = self.source.task.score([row.right for row in labelled], answers, self.reference.reading)
        return float(metrics[self.metric])

    def changes(self, answers: Sequence[Answer], wanted: Sequence[Answer]) -> int:
        """Return how many answers say something else than PyTorch's."""
        told = self.source.task.predicted
        return sum(told(one) != told(other) for one, other in zip(answers, wanted, strict=True))

    def sample(self) -> tuple[list[Labelled], list[Asked], Outputs]:
        """Return rows to try candidates on, evenly spread over the evaluation rows, with PyTorch's outputs.

        Without evaluation rows they are calibration rows, and have no labels.
        """
        rows = self.evidence.any
        step = -(-sum(row.tokens for row in rows) // SEARCH_TOKENS)
        some = rows[::step]
        if not self.evidence.evaluation:
            return [], some, self.reference.outputs(some)
        return self.evidence.labelled[::step], some, self.wanted[::step]
