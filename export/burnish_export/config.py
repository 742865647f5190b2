"""The settings of ``burnish export``."""

from __future__ import annotations

from pathlib import Path

from burnish_serve.config import dataclass, setting
from burnish_serve.signature import check_private_key
from burnish_serve.tasks import TASKS

PRECISIONS = ("auto", "fp32", "fp16", "int8", "int8-dynamic")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and what the result must be worth.

    Raises:
        InputError: the key to sign with cannot be used; that is said before the work and not behind it.
    """

    checkpoint: str = setting("folder of a checkpoint, or any Hugging Face model with --task")
    out: Path = setting("folder of the bundle, made by this command")
    task: str | None = setting(
        "what the model answers; known where burnish train wrote it", default=None, choices=tuple(TASKS)
    )
    calibrate: str | None = setting(
        "rows that set the ranges of int8; the checkpoint's own where none are given", default=None
    )
    eval: str | None = setting(
        "labelled rows to score every variant on; the checkpoint's dev rows by default", default=None
    )
    precision: str = setting(
        "auto makes int8 the default where it is worth it and costs at most --max-drop, else float32",
        default="auto",
        choices=PRECISIONS,
    )
    max_drop: float = setting(
        "loss of score against float32 that is allowed, 0.005 is half a point", default=0.005, minimum=0
    )
    seconds: float = setting(
        "time to measure each candidate of auto and int8, alone and in batches each", default=0.5, minimum=0.01
    )
    max_length: int | None = setting("tokens of a text at the most; as trained by default", default=None, minimum=3)
    text_column: str = setting("column that holds the text", default="text")
    label_column: str | None = setting(
        "column that holds what is right; the task's own (label, labels, score, tags …) where none is given",
        default=None,
    )
    sign_key: Path | None = setting("private key (PEM) that signs the bundle", default=None)

    def __post_init__(self) -> None:
        """Read the key, which costs nothing."""
        if self.sign_key:
            check_private_key(self.sign_key)
