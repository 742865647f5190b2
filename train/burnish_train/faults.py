"""What ends a run in its middle, and what to do about it: a loss that is no number, no more memory, a full disk.

>>> explained(MemoryError(), config, Path("runs/a.partial"), None)  # doctest: +SKIP
'out of memory: lower --per-device-train-batch-size from 32 to 16 …'
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size

from burnish_serve.errors import BurnishError, InputError
from burnish_serve.runner import Runner
from burnish_train.config import TrainConfig
from burnish_train.data import Example
from burnish_train.work import last_whole

# Characters of a row's text, and rows, that a message holds.
SHOWN, MOST_ROWS = 80, 32
# Where PyTorch has the errors of torch.compile; they take seconds to import.
OF_COMPILING = ("torch._dynamo.exc", "torch._inductor.exc")


class UnfitError(BurnishError):
    """These settings cannot be learned with here: other ones can, and a search of settings goes on with them."""


class FiniteLoss(transformers.TrainerCallback):
    """Ends a run whose loss or gradient is not finite, before weights that came of it are saved.

    On a CPU each step is looked at. A GPU would have to be waited for, so what it found is looked at where Trainer
    waits for it anyway: at the next point of the curve, evaluation or checkpoint. The step that is told is still the
    right one.

    Args:
        texts_of: from ids ``[windows, length]`` to the texts of the rows that they come from.
    """

    def __init__(self, texts_of: Callable[[torch.Tensor], Sequence[str]]) -> None:
        self._texts_of = texts_of
        self._seen: list[tuple[int, str, torch.Tensor, torch.Tensor | None]] = []

    def watch(self, step: int, name: str, value: torch.Tensor, ids: torch.Tensor | None = None) -> None:
        """Take down a number of a step, and the batch that it is the loss of."""
        self._seen.append((step, name, value.detach(), ids))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, where that costs nothing or is due."""
        due = control.should_log or control.should_save or control.should_evaluate
        if due or (self._seen and self._seen[0][2].device.type == "cpu"):
            self._look(args, state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, before the epoch is evaluated and saved."""
        self._look(args, state)

    def _look(self, args: Any, state: Any) -> None:
        """Raise BurnishError where something that was taken down since the last look is not finite."""
        seen, self._seen = self._seen, []
        if not seen or (values := torch.stack([value.float() for _, _, value, _ in seen]).cpu()).isfinite().all():
            return
        first = int((~values.isfinite()).nonzero()[0])
        step, name, _, batch = seen[first]
        batches = (
            [batch] if batch is not None else [ids for when, _, _, ids in seen if when == step and ids is not None]
        )
        texts = list(dict.fromkeys(text for ids in batches for text in self._texts_of(ids)))
        rows = "; ".join(repr(text[:SHOWN]) for text in texts[:MOST_ROWS])
        more = f" and {len(texts) - MOST_ROWS} more" * (len(texts) > MOST_ROWS)
        precision = ", --precision fp32" * (args.bf16 or args.fp16)
        saved = last_whole(Path(args.output_dir))
        left = f"{saved} is the last good checkpoint, and" if saved else "there is no checkpoint yet, and"
        raise UnfitError(
            f"the {name} is {float(values[first])} at step {step} of {state.max_steps}; try a lower --learning-rate "
            f"(it is {args.learning_rate:g}){precision} or a smaller --max-grad-norm (it is {args.max_grad_norm:g}), "
            f"with --overwrite to start again; {left} --resume with the same settings would come to the same; "
            f"the rows of that step: {rows}{more}"
        )


def texts_of(ids: torch.Tensor, runner: Runner, rows: Sequence[Example]) -> list[str]:
    """Return the texts of the rows that a batch was made of; of a window of many texts, what it holds.

    Rows are found by their tokens, which takes as long as to tokenize them all: it is done once, at a run's end.

    Args:
        ids: int64 ``[windows, length]``.
        runner: with the tokenizer.
        rows: the rows that were learned from.
    """
    asked = runner.encode([row.asked for row in rows])
    known = {
        tuple(window.ids.tolist()): " / ".join(row.texts)
        for row, one in zip(rows, asked, strict=True)
        for window in one.windows
    }
    found = []
    for line in ids.tolist():
        while line and line[-1] == runner.pad_token_id:
            line.pop()
        found.append(known.get(tuple(line)) or runner.encoder.tokenizer.decode(line))
    return found


@contextlib.contextmanager
def told(config: TrainConfig, work: Path) -> Iterator[None]:
    """Say what to do about an error of the machine's; a working folder with nothing to go on from is removed.

    Args:
        config: the settings of the run.
        work: the working folder.
    """
    try:
        yield
    except BaseException as error:  # Ctrl-C too
        saved = last_whole(work)
        if saved is None and isinstance(error, InputError):  # nothing to go on from
            shutil.rmtree(work, ignore_errors=True)
        if found := explained(error, config, work, saved):
            raise found from error
        raise


def explained(error: BaseException, config: TrainConfig, work: Path, saved: str | None) -> BurnishError | None:
    """Return the error that says what to do about one of the machine's; None for any other.

    Args:
        error: what was raised.
        config: the settings of the run.
        work: the working folder.
        saved: the last checkpoint in it.
    """
    goes_on = f"the same command with --resume goes on from {saved or 'the start'}"
    if disk_is_full(error):
        return BurnishError(f"the disk of {work} is full; make room, and {goes_on}")
    if not out_of_memory(error):
        return BurnishError(uncompiled(error)) if type(error).__module__ in OF_COMPILING else None
    size, steps = config.per_device_train_batch_size, getattr(config, "gradient_accumulation_steps", 1)
    smaller = (
        f"lower --per-device-train-batch-size from {size} to {size // 2} (with --gradient-accumulation-steps "
        f"{2 * steps} a step learns from as many rows), or "
    )
    return UnfitError(
        f"out of memory: {smaller * (size > 1)}lower --max-length (it is {config.max_length}), or give "
        f"--gradient-checkpointing, and --overwrite to start again with that; where the memory was taken by others, "
        f"{goes_on}"
    )


def uncompiled(error: BaseException) -> str:
    """Return why a model cannot be compiled, by PyTorch's error, which holds all that a compiler said."""
    said = str(error).splitlines() or [type(error).__name__]
    marks = (" error:", "Error:")  # a C++ compiler's, which says more than Python's around it
    cause = next((line.strip() for mark in marks for line in said if mark in line), said[0])
    return f"the model cannot be compiled here: {cause}; leave out --torch-compile"


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or the machine has no more memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    of_cpu = "DefaultCPUAllocator: not enough memory" in said or "std::bad_alloc" in said  # Windows', and C++'s
    return isinstance(error, RuntimeError) and (of_cpu or should_reduce_batch_size(error))


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error means a full disk; PyTorch's own, in two kinds, name no disk."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return any(said in str(error) for said in ("No space left on device", "inline_container.cc", "iostream error"))
