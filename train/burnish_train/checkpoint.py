"""The checkpoint: a Hugging Face folder, and ``burnish.json`` beside it with how it came to be.

Written beside its final name and renamed when it is whole. ``dev.jsonl`` and ``calibration.jsonl`` stand in it, so that
``burnish export`` needs nothing else.

>>> model = load("runs/intent", device="cpu")  # doctest: +SKIP
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from burnish_serve import machine
from burnish_serve.bundle import is_bundle
from burnish_serve.errors import InputError
from burnish_serve.runner import Runner
from burnish_serve.tasks import Decoding, Logits, Task, task_named
from burnish_serve.text import TextEncoder, encoder_for
from burnish_serve.writing import RowWriter
from burnish_train.device import use_cuda
from burnish_train.heads import PooledClassifier
from burnish_train.vocabulary import add_tokens

RECORD = "burnish.json"
FORMAT = 1
CALIBRATION_ROWS = 512
# Padded tokens of a batch in PyTorch, which gains more from large batches than ONNX Runtime does.
MAX_BATCH_TOKENS = 4096


def quiet() -> None:
    """Keep transformers' own notes and bars from the user; what matters is said by us."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each retry without a network


def load_encoder(name: str, task: Task, labels: Sequence[str], pooling: str = "first") -> tuple[Any, Any]:
    """Return (tokenizer, model) of a pretrained encoder with a new head.

    Args:
        name: a folder or a name on the Hub.
        task: names the head.
        labels: names of the outputs; empty for a task without labels.
        pooling: ``first`` for the architecture's own head, or a pooling of ours.

    Raises:
        InputError: there is no such model, or it has no fast tokenizer or no safetensors.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise InputError(f"{name} is not a model folder: it has no config.json")
    named: dict[str, Any] = {}
    if labels:
        named = {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "problem_type": task.problem_type,
        }
    elif len(task.outputs) > 1:  # a start and an end; an encoder that was a classifier would give so many as its labels
        named = {"num_labels": len(task.outputs)}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **named)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = _load_weights(name, task.head, pooling, config)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"cannot load the model {name!r} (a folder, or a name on the Hub): {first}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"the model {name!r} has no fast tokenizer (tokenizer.json)")
    if isinstance(model, PooledClassifier):
        add_tokens(tokenizer, model.encoder, task.tokens)
        model.numbers = tuple(tokenizer.convert_tokens_to_ids(list(model.pooling.tokens)))
    else:
        add_tokens(tokenizer, model, task.tokens)
    return tokenizer, model


def _load_weights(name: str | Path, head: str, pooling: str, config: Any) -> Any:
    ours = pooling != "first" and head == "SequenceClassification"
    auto = getattr(transformers, f"AutoModelFor{head}" if head and not ours else "AutoModel")
    model = auto.from_pretrained(name, config=config, use_safetensors=True, dtype=torch.float32)
    return PooledClassifier(model, config.num_labels, pooling) if ours else model


def saved_tokenizer(
    task: Task, tokenizer: Any, folder: Path, model: Any, *, max_length: int, stride: int, on_long: str | None
) -> TextEncoder:
    """Return our tokenization of a transformers tokenizer, limited to what the model can read.

    Raises:
        InputError: the model reads fewer tokens than ``max_length`` asks for, and says so.
    """
    tokenizer.save_pretrained(folder)
    length = min(max_length, max_positions(model.config, tokenizer))
    return encoder_for(task, folder / "tokenizer.json", length, stride, on_long)


def max_positions(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a model can read: its positions, or its tokenizer's limit where that is less."""
    positions = getattr(config, "max_position_embeddings", None) or 512
    if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        positions -= config.pad_token_id + 1  # their position numbers start behind the padding's
    return int(min(positions, tokenizer.model_max_length))


def write(
    folder: Path, tokenizer: Any, model: Any, record: dict[str, Any], rows: dict[str, list[dict[str, Any]]]
) -> None:
    """Write a whole checkpoint into an existing folder; the record goes last.

    Args:
        folder: where.
        tokenizer: transformers' tokenizer.
        model: transformers' model.
        record: contents of ``burnish.json``.
        rows: file name to rows, for ``dev.jsonl`` and ``calibration.jsonl``.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, contents in rows.items():
        with RowWriter(folder / name) as writer:
            writer.write(contents)
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.glob("*.safetensors"):  # safetensors makes them readable for their owner alone
        path.chmod(0o666 & ~mask)
    text = json.dumps({"format": FORMAT, **record}, indent=1, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


class TorchSession:
    """A transformers model behind the ``run`` of an ONNX Runtime session.

    Args:
        model: transformers' model, on its device.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Logits]:
        """Return the outputs for one batch of int64 arrays."""
        device = self.model.device
        with torch.inference_mode():
            outputs = self.model(**{name: torch.from_numpy(array).to(device) for name, array in input_feed.items()})
        return [outputs[name].float().cpu().numpy() for name in output_names or outputs]


def runner_for(
    model: Any, encoder: TextEncoder, pad_token_id: int, task: Task, labels: Sequence[str], decoding: Decoding
) -> Runner:
    """Return a runner that answers with a PyTorch model: the reference for every bundle."""
    return Runner(
        task=task,
        labels=labels,
        encoder=encoder,
        session=TorchSession(model),
        inputs=input_names(model.config),
        pad_token_id=pad_token_id,
        variant="pytorch",
        decoding=decoding,
        max_batch_tokens=MAX_BATCH_TOKENS,
    )


def input_names(config: Any) -> tuple[str, ...]:
    """Return the inputs that a model of this config reads."""
    typed = getattr(config, "type_vocab_size", 0) > 1
    return ("input_ids", "attention_mask", *(("token_type_ids",) if typed else ()))


def load(folder: str | Path, *, device: str = "auto", threads: int | None = None, on_long: str | None = None) -> Runner:
    """Return a checkpoint of ours, ready to answer.

    Args:
        folder: the checkpoint.
        device: ``cpu``, ``cuda``, or ``auto``.
        threads: threads of one run on the CPU; None for as many as this process may use.
        on_long: what becomes of texts that are longer than the model; None for the task's way.

    Raises:
        InputError: the folder is not a checkpoint.
        DeviceError: the device cannot be used.
    """
    quiet()
    torch.set_num_threads(threads or machine.num_threads())
    folder = Path(folder)
    return opened(folder, load_model(folder).to("cuda" if use_cuda(device) else "cpu"), on_long)


def opened(folder: Path, model: Any, on_long: str | None = None) -> Runner:
    """Return a checkpoint of ours around its model, ready to answer; see `load`."""
    record = read_record(folder)
    task = task_named(record["task"])
    path = folder / "tokenizer.json"
    encoder = encoder_for(task, path, record["max_length"], record["stride"], on_long)
    pad = transformers.AutoTokenizer.from_pretrained(folder).pad_token_id
    return runner_for(model, encoder, pad, task, record["labels"], Decoding(**record["decoding"]))


def load_model(folder: Path) -> Any:
    """Return a checkpoint's PyTorch model, with the head that ``burnish.json`` names.

    Raises:
        InputError: the folder is not a checkpoint.
    """
    record = read_record(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        model = _load_weights(folder, task_named(record["task"]).head, record["pooling"], config)
        if isinstance(model, PooledClassifier):
            model.load_head(folder)
            model.numbers = tuple(record.get("pooling_tokens", {}).values())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{folder} is not a checkpoint that can be loaded: {str(error).splitlines()[0]}") from error
    return model.eval()


def read_record(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's ``burnish.json``.

    Raises:
        InputError: it is missing or is not JSON.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not folder.exists():
            raise InputError(f"no such checkpoint: {folder}") from error
        if is_bundle(folder):
            wanted = "a checkpoint is wanted, such as the folder that it was exported from"
            raise InputError(f"{folder} is a bundle, and {wanted}") from error
        raise InputError(f"{folder} is neither a bundle nor a checkpoint of burnish: it has no {RECORD}") from error
    except ValueError as error:
        raise InputError(f"{folder / RECORD} is damaged: it is not JSON") from error
    return record
