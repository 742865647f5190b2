"""Labelled rows and a pretrained encoder in, a Hugging Face checkpoint out.

>>> from burnish_train import TrainConfig, train
>>> train(TrainConfig(model="encoder/", train="train.jsonl", out=Path("runs/a")))  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from burnish_train.config import TrainConfig

if TYPE_CHECKING:
    from burnish_train.fit import train

__all__ = ["TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is asked for, so that the command's help does without."""
    if name == "train":
        from burnish_train.fit import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
