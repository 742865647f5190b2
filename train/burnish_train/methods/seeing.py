"""What flows into layers while a model reads rows, without padding: to see which of their inputs matter.

>>> with seeing(encoder, [(layer, print)]):  # doctest: +SKIP
...     read()
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def seeing(
    encoder: torch.nn.Module, eyes: Iterable[tuple[torch.nn.Module, Callable[[torch.Tensor], object]]]
) -> Iterator[None]:
    """While this context lasts, tell of each layer what it reads of a batch's tokens, float32 ``[tokens, channels]``.

    Args:
        encoder: is called with the batch's ``attention_mask`` by name, or reads no padding.
        eyes: layers inside of it, each with what is told.
    """
    real: list[torch.Tensor | None] = [None]

    def begin(_: torch.nn.Module, __: tuple[Any, ...], named: dict[str, Any]) -> None:
        mask = named.get("attention_mask")
        real[0] = None if mask is None else mask.bool()

    def see(tell: Callable[[torch.Tensor], object], given: tuple[torch.Tensor, ...]) -> None:
        vectors = given[0].detach().float()
        whole = real[0] is None or vectors.shape[:-1] != real[0].shape
        tell(vectors.flatten(0, -2) if whole else vectors[real[0]])

    hooks = [encoder.register_forward_pre_hook(begin, with_kwargs=True)]
    hooks += [layer.register_forward_pre_hook(lambda _, given, tell=tell: see(tell, given)) for layer, tell in eyes]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
