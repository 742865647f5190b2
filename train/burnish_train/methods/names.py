"""Names that settings take, apart from the code that needs PyTorch: the command's help shows them at once.

>>> "linear" in SCHEDULES
True
"""

from __future__ import annotations

OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adam", "adafactor", "adagrad", "rmsprop", "sgd")
"""transformers' names, and PyTorch's Adam, whose decay goes through the gradient."""

PLATEAU = "reduce_lr_on_plateau"
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant_with_warmup",
    "cyclic",
    PLATEAU,
)
"""transformers' names, and triangles."""

ATTENTIONS = ("auto", "eager", "sdpa", "flash_attention_2")
"""transformers' names for how attention is computed, and the choice among them."""

AUGMENTATIONS = ("replace", "swap", "delete")
"""Ways to change words of a row to train on."""
