"""Labelled rows and a pretrained encoder in, a Hugging Face checkpoint out.

>>> from burnish_train import TrainConfig, train
>>> train(TrainConfig(model="encoder/", train="train.jsonl", out=Path("runs/a")))  # doctest: +SKIP
"""

from burnish_train.config import TrainConfig
from burnish_train.fit import train

__all__ = ["TrainConfig", "train"]
