"""How the learning rate rises and falls: transformers' schedules, a cyclic one, and one that waits for the dev score.

>>> schedule_for("cyclic", optimizer, warmup=10, steps=100)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from burnish_train.methods.names import PLATEAU

# Of the schedule that the rate is looked up in.
RESOLUTION = 1_000_000
# What the rate is multiplied by after an epoch that was no better, and how low a cycle goes.
REDUCED = 0.5
LOWEST = 0.1


def schedule_for(
    name: str,
    optimizer: Any,
    *,
    warmup: int,
    steps: int,
    cycles: int = 1,
    power: float = 1.0,
    progress: Callable[[], float] | None = None,
) -> Any:
    """Return a schedule of the learning rate.

    Args:
        name: one of `burnish_train.methods.names.SCHEDULES`.
        optimizer: whose rate it sets.
        warmup: steps in which the rate rises.
        steps: of the whole run.
        cycles: of ``cosine_with_restarts`` and ``cyclic``.
        power: of ``polynomial``.
        progress: the share of the time that is over, where a clock may end the run: the rate follows it or the
            steps, whichever is further.
    """
    if name == PLATEAU:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=REDUCED, patience=0)
    if progress is None:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(name, warmup, steps, cycles, power))
    rate, clock = _rate(name, round(warmup / steps * RESOLUTION), RESOLUTION, cycles, power), progress

    def at(step: int) -> float:
        share = min(1.0, max(step / steps, clock()))
        return rate(int(share * RESOLUTION))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, at)


def _rate(name: str, warmup: int, steps: int, cycles: int, power: float) -> Callable[[int], float]:
    """Return what the highest rate is multiplied by at a step."""
    if name == "cyclic":
        return lambda step: _cyclic(step, warmup, steps, cycles)
    special: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": cycles},
        "polynomial": {"power": power},
    }
    idle = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plan = transformers.get_scheduler(name, idle, warmup, steps, scheduler_specific_kwargs=special.get(name))
    rate: Callable[[int], float] = plan.lr_lambdas[0]
    return rate


def _cyclic(step: int, warmup: int, steps: int, cycles: int) -> float:
    """Return a triangle's height: from the highest rate to a tenth and back (Smith, 2017, arXiv:1506.01186)."""
    if step < warmup:
        return step / max(1, warmup)
    within = (step - warmup) / max(1, steps - warmup) * cycles % 1.0
    return LOWEST + (1 - LOWEST) * abs(1 - 2 * within)


class WarmUp(transformers.TrainerCallback):
    """Lets the rate rise over the first steps, where the schedule itself looks at dev scores alone.

    Args:
        steps: in which it rises.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the rate of this step."""
        if state.global_step <= self._steps:
            share = min(1.0, (state.global_step + 1) / (self._steps + 1))
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
