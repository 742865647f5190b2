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
from burnish_serve.tasks import Logits
from burnish_serve.text import Encoded, TextEncoder

CALIBRATION_ROWS = 10_000
GOLDEN_ROWS = 8
FALLBACK_TEXTS = (("a short text",), ("Another text, somewhat longer than the first one.",), ("?",))


# The autopilot tries each candidate on so many tokens of the evaluation rows; the variants are scored on all of them.
SEARCH_TOKENS = 40_000


@dataclass(frozen=True)
class Made:
    """A variant with what was found out about it."""

    runner: Runner
    proof: Proof
    logits: Logits
    """Of the evaluation rows."""
    score: float | None
    batch_invariant: bool


@dataclass(frozen=True)
class Evidence:
    """The rows that an export works with."""

    labelled: list[Labelled]
    evaluation: list[Encoded]
    calibration: list[Encoded]
    golden: tuple[dict[str, Any], ...]

    @property
    def any(self) -> list[Encoded]:
        """Whatever real rows there are."""
        return self.evaluation or self.calibration


def read_evidence(config: ExportConfig, source: Source, encoder: TextEncoder) -> Evidence:
    """Return evaluation, calibration and golden rows, from the flags or from the checkpoint's own files."""

    def own(name: str) -> str | None:
        path = source.folder / name if source.folder else None
        return str(path) if path and path.is_file() and path.stat().st_size else None

    columns = {"text_column": config.text_column, "label_column": config.label_column}
    evaluation = (config.eval, columns) if config.eval else (own("dev.jsonl"), {})
    labelled = read_labelled(evaluation[0], source.task, source.labels, **evaluation[1]) if evaluation[0] else []
    calibration = config.calibrate or own("calibration.jsonl")
    column = config.text_column if config.calibrate else source.task.text_columns[0]
    texts: list[tuple[str, ...]] = []
    for number, row in read_rows(calibration) if calibration else []:
        texts.append(tuple(source.task.texts(row, column, f"{calibration}:{number}").values()))
        if len(texts) == CALIBRATION_ROWS:
            break
    if calibration and not texts:
        raise InputError(f"{calibration} has no rows")
    names = source.task.text_columns
    golden = [example.asked for example in labelled]
    golden = golden or [dict(zip(names, text, strict=True)) for text in texts or FALLBACK_TEXTS]
    return Evidence(
        labelled=labelled,
        evaluation=encoder([tuple(example.asked.values()) for example in labelled]) if labelled else [],
        calibration=encoder(texts) if texts else [],
        golden=tuple(golden[:GOLDEN_ROWS]),
    )


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
    wanted: Logits
    """PyTorch's, of the evaluation rows."""

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
            problem_type=self.source.problem_type,
            encoder=self.reference.encoder,
            session=session,
            inputs=self.source.network.inputs,
            pad_token_id=self.source.network.pad_token_id,
            variant=name,
        )

    def score(self, labelled: Sequence[Labelled], logits: Logits) -> float | None:
        """Return the task's metric for logits of labelled rows; None where there are none."""
        return score_of(self.reference, labelled, logits)

    def sample(self) -> tuple[list[Labelled], list[Encoded], Logits]:
        """Return rows to try candidates on, evenly spread over the evaluation rows, with PyTorch's logits.

        Without evaluation rows they are calibration rows, and have no labels.
        """
        rows = self.evidence.any
        step = -(-sum(len(row.ids) for row in rows) // SEARCH_TOKENS)
        some = rows[::step]
        if not self.evidence.evaluation:
            return [], some, self.reference.run(some)
        return self.evidence.labelled[::step], some, self.wanted[::step]


def score_of(runner: Runner, labelled: Sequence[Labelled], logits: Logits) -> float | None:
    """Return the task's metric for logits of labelled rows; None where there are none."""
    if not labelled:
        return None
    predicted = [runner.labels[i] for i in logits.argmax(-1)]
    return float(runner.task.score([row.label for row in labelled], predicted, runner.labels)[runner.task.metric])
