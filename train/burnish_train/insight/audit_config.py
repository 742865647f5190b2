"""The settings of ``burnish audit``.

>>> AuditConfig(rows="train.jsonl", model="encoder/")  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

from burnish_serve.config import dataclass, setting
from burnish_serve.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Which rows to look at, with what, and what to look for."""

    rows: str = setting("labelled rows to audit")
    model: str = setting("encoder whose vectors of the texts are compared: a folder, a name on the Hub, a checkpoint")
    task: str = setting("what the rows are labelled for", default="text-classification", choices=tuple(TASKS))
    text_column: str = setting("column that holds the text", default="text")
    label_column: str | None = setting(
        "column that holds what is right; the task's own where none is given", default=None
    )
    dev: str | None = setting("dev rows that should share no text with the rows", default=None)
    test: str | None = setting("test rows that should share no text with the rows or with dev", default=None)
    out_of_fold: str | None = setting(
        "answers of burnish cross-validate to the rows; a linear probe on the vectors gives them where none are given",
        default=None,
    )
    folds: int = setting("parts of the rows; the probe answers each without it", default=5, minimum=2)
    near: float = setting("cosine from which two texts are near-duplicates", default=0.95, minimum=-1, below=1)
    slice_column: str | None = setting(
        "column by whose values answers are scored, as by length and class", default=None
    )
    target: str | None = setting("trained checkpoint or bundle whose answers are looked at", default=None)
    swap: tuple[str, ...] = setting(
        "words that should not matter to the target, as 'he,she', or a .toml file of such groups", default=()
    )
    max_length: int = setting("tokens of a text that the encoder reads at the most", default=512, minimum=3)
    seed: int = setting("seed of the folds", default=42, minimum=0)
    top: int = setting("findings of each kind that are shown", default=10, minimum=1)
    out: str | None = setting("file for the rows with findings: .jsonl .csv .tsv .parquet", default=None)
    html: Path | None = setting("file for all of it as one page", default=None)
    device: str = setting("where to compute", default="auto", choices=("auto", "cpu", "cuda"))
