"""What is exported: a checkpoint of ours, or any Hugging Face model with a head.

>>> source = read_source("runs/intent", task=None, max_length=None)  # doctest: +SKIP
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from optimum.utils import NormalizedConfigManager
from safetensors import SafetensorError
from safetensors.torch import load_file

from burnish_export.network import Network, PooledHead, TorchSession
from burnish_serve.errors import InputError
from burnish_serve.runner import Runner
from burnish_serve.tasks import TASKS, Decoding, Task, task_named
from burnish_serve.text import TextEncoder

HEAD_FILE = "head.safetensors"
# Tokens that neighbouring windows of a long text share, as transformers' question answering has it.
STRIDE = 128


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model with its tokenizer, its task and where it comes from."""

    network: Network
    tokenizer: Any
    task: Task
    labels: tuple[str, ...]
    """Names of the logits; empty where the task has none."""
    decoding: Decoding
    stride: int
    record: dict[str, Any]
    """``burnish.json``; empty for a model that burnish did not train."""
    folder: Path | None
    """Where it lies; None for one of the Hub."""


def read_source(name: str, task: str | None, max_length: int | None) -> Source:
    """Return the model of a folder, or of a name on the Hub.

    Raises:
        InputError: it is no model, or its task is not known.
    """
    folder = Path(name) if Path(name).exists() else None
    record = _record(folder)
    if folder and not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a checkpoint: it has no config.json")
    if folder is None and task is None:
        raise InputError(f"{name}: no such folder, and a model of the Hub needs --task (such as text-classification)")
    if not record and task is None:
        raise InputError(
            f"{name} has no burnish.json, so its task is not known: give --task (such as text-classification)"
        )
    if record and task and task != record["task"]:
        raise InputError(f"{name} was trained for {record['task']}, not for {task}")
    chosen = task_named(str(record["task"] if record else task))
    pooling = record.get("pooling", "first")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        ours = folder is not None and pooling != "first"
        auto = getattr(transformers, f"AutoModelFor{chosen.head}" if chosen.head and not ours else "AutoModel")
        model = auto.from_pretrained(name, config=config, use_safetensors=True, dtype=torch.float32)
        if folder and ours:
            model = PooledHead(model, load_file(folder / HEAD_FILE), pooling, record.get("pooling_tokens", {}).values())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"cannot load the checkpoint {name!r}: {str(error).strip().splitlines()[0]}") from error
    if not record:
        chosen = _for_problem(chosen, config)
    if (
        not record
        and chosen.head
        and not any(key.startswith("Auto") or chosen.head in key for key in config.architectures or [])
    ):
        raise InputError(f"{name} has no head for {chosen.name} (it is a {', '.join(config.architectures or ['?'])})")
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{name} has no fast tokenizer (tokenizer.json)")
    if missing := [token for token in chosen.tokens if token not in tokenizer.get_vocab()]:
        raise InputError(f"{name} was not trained for {chosen.name}: its tokenizer has no token {', '.join(missing)}")
    length = int(min(tokenizer.model_max_length, max_length or record.get("max_length") or _sentence_length(name)))
    return Source(
        network=Network.of(model, config, outputs=chosen.outputs, max_length=length),
        tokenizer=tokenizer,
        task=chosen,
        labels=tuple(str(config.id2label[i]) for i in range(config.num_labels)) if chosen.labelled else (),
        decoding=Decoding(**record.get("decoding", {})),
        stride=record.get("stride", min(length // 2, STRIDE)),
        record=record,
        folder=folder,
    )


def _for_problem(task: Task, config: Any) -> Task:
    """Return the task of the same pipeline that a configuration's ``problem_type`` tells."""
    told = config.problem_type or ("regression" if config.num_labels == 1 else task.problem_type)
    same = [other for other in TASKS.values() if other.pipeline == task.pipeline and other.problem_type == told]
    return task if task in same or not same else same[0]


def reference_runner(source: Source, encoder: TextEncoder) -> Runner:
    """Return a runner that answers with PyTorch in float32."""
    return Runner(
        task=source.task,
        labels=source.labels,
        decoding=source.decoding,
        encoder=encoder,
        session=TorchSession(source.network),
        inputs=source.network.inputs,
        pad_token_id=source.network.pad_token_id,
        variant="pytorch",
        max_batch_tokens=4096,
    )


def architecture(config: Any) -> dict[str, int | str]:
    """Return a model's measures by optimum's normalized names, for the manifest."""
    normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    wanted = ("hidden_size", "num_layers", "num_attention_heads", "vocab_size")
    return {
        "model_type": config.model_type,
        **{name: getattr(normalized, name) for name in wanted if normalized.has_attribute(name)},
    }


def _sentence_length(name: str) -> int:
    """Return how many tokens a sentence encoder reads, where it says so, as sentence-transformers does; else 512."""
    try:
        path = transformers.utils.cached_file(name, "sentence_bert_config.json")
        return int(json.loads(Path(path).read_text(encoding="utf-8"))["max_seq_length"] or 512)
    except (OSError, ValueError, KeyError, TypeError):
        return 512


def _record(folder: Path | None) -> dict[str, Any]:
    if folder is None or not (folder / "burnish.json").is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads((folder / "burnish.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / 'burnish.json'} is damaged: it is not JSON") from error
    return record
