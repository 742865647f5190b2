"""The settings of ``burnish compress``.

>>> CompressConfig(checkpoint=Path("runs/a"), out=Path("runs/a-small"), speedup=2.0).max_drop
0.01
"""

from __future__ import annotations

from pathlib import Path

from burnish_serve.config import dataclass, setting


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """What to make smaller, how fast it must be, and what it may cost."""

    checkpoint: Path = setting("checkpoint of burnish train: the teacher")
    out: Path = setting("folder of the student's checkpoint and bundle, made by this command")
    speedup: float = setting("texts a second of the bundle against the teacher's, at least", default=2.0, minimum=1)
    max_drop: float = setting("loss of dev score that is allowed, through the bundles", default=0.01, minimum=0)
    keep_heads: float = setting(
        "share of each layer's attention heads that a student keeps, those that matter most on train",
        default=1.0,
        minimum=0.01,
    )
    tries: int = setting("students to train at the most", default=3, minimum=1)
    num_train_epochs: float = setting(
        "how often a student sees each row; twice as often as its teacher by default", default=0.0, minimum=0
    )
    learning_rate: float = setting(
        "a student's highest learning rate; half as much again as its teacher's by default", default=0.0, minimum=0
    )
    train: str | None = setting("rows to learn from; those of the teacher where none are given", default=None)
    unlabelled: str | None = setting("rows without labels, learned from by the teacher's scores alone", default=None)
    teacher: tuple[str, ...] = setting("teachers besides the checkpoint, of the same task and labels", default=())
    trim_vocabulary: bool = setting(
        "students keep only those word pieces that the rows to learn from use, and all single characters", default=False
    )
    device: str = setting("where to train", default="auto", choices=("auto", "cpu", "cuda"))
