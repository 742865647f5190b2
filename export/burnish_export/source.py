"""What is exported: a checkpoint of ours, or any Hugging Face model with a head, as one PyTorch module.

>>> source = read_source("runs/intent", task=None, max_length=None)  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from optimum.utils import NormalizedConfigManager
from safetensors import SafetensorError
from safetensors.torch import load_file

from burnish_serve.errors import InputError
from burnish_serve.runner import Runner
from burnish_serve.tasks import Logits, Task, task_named
from burnish_serve.tasks.pooling import POOLINGS
from burnish_serve.text import TextEncoder

# Model types whose position numbers start behind the padding token's.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model, ready to export."""

    model: torch.nn.Module
    """Takes the inputs by name, returns the logits."""
    tokenizer: Any
    config: Any
    task: Task
    labels: tuple[str, ...]
    problem_type: str
    inputs: tuple[str, ...]
    max_length: int
    record: dict[str, Any]
    """``burnish.json``; empty for a model that burnish did not train."""
    folder: Path | None
    """Where it lies; None for one of the Hub."""


class Exported(torch.nn.Module):
    """A model as a graph takes it: inputs in the order of their names, and logits alone as its output."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, labels]`` for int64 ``[batch, length]`` tensors."""
        logits: torch.Tensor = self.model(**dict(zip(self.inputs, tensors, strict=True))).logits
        return logits


class PooledHead(torch.nn.Module):
    """An encoder with a linear head on its pooled token vectors, as `burnish train --pooling` makes it."""

    def __init__(self, encoder: Any, weights: Mapping[str, torch.Tensor], pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = POOLINGS[pooling]
        self.classifier = torch.nn.Linear(*reversed(weights["weight"].shape))
        self.classifier.load_state_dict(dict(weights))

    def forward(self, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> Any:
        """Return an output with ``logits``."""
        hidden = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        logits = self.classifier(self.pool(hidden, attention_mask))
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)


class TorchSession:
    """A module behind the ``run`` of an ONNX Runtime session: the reference that every variant is held against."""

    def __init__(self, source: Source) -> None:
        self._module = Exported(source.model, source.inputs)

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Logits]:
        """Return the logits of one batch."""
        with torch.inference_mode():
            logits: Logits = self._module(*(torch.from_numpy(array) for array in input_feed.values())).numpy()
        return [logits]


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
    chosen = task_named(task or record["task"])
    pooling = record.get("pooling", "first")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        auto = getattr(transformers, f"AutoModelFor{chosen.head}" if pooling == "first" else "AutoModel")
        model = auto.from_pretrained(name, config=config, use_safetensors=True, dtype=torch.float32)
        if folder and pooling != "first":
            model = PooledHead(model, load_file(folder / "head.safetensors"), pooling)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"cannot load the checkpoint {name!r}: {str(error).strip().splitlines()[0]}") from error
    if not record and not any(key.startswith("Auto") or chosen.head in key for key in config.architectures or []):
        raise InputError(f"{name} has no head for {chosen.name} (it is a {', '.join(config.architectures or ['?'])})")
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{name} has no fast tokenizer (tokenizer.json)")
    typed = getattr(config, "type_vocab_size", 0) > 1
    return Source(
        model=model.eval(),
        tokenizer=tokenizer,
        config=config,
        task=chosen,
        labels=tuple(str(config.id2label[i]) for i in range(config.num_labels)),
        problem_type=config.problem_type or "single_label_classification",
        inputs=("input_ids", "attention_mask", *(("token_type_ids",) if typed else ())),
        max_length=_max_length(config, tokenizer, max_length or record.get("max_length")),
        record=record,
        folder=folder,
    )


def reference_runner(source: Source, encoder: TextEncoder) -> Runner:
    """Return a runner that answers with PyTorch in float32."""
    return Runner(
        task=source.task,
        labels=source.labels,
        problem_type=source.problem_type,
        encoder=encoder,
        session=TorchSession(source),
        inputs=source.inputs,
        pad_token_id=source.tokenizer.pad_token_id or 0,
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


def _record(folder: Path | None) -> dict[str, Any]:
    if folder is None or not (folder / "burnish.json").is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads((folder / "burnish.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / 'burnish.json'} is damaged: it is not JSON") from error
    return record


def _max_length(config: Any, tokenizer: Any, wanted: int | None) -> int:
    """Return the tokens of a text at the most: what is wanted, as far as the model reads."""
    positions = getattr(config, "max_position_embeddings", None) or 512
    if config.model_type in OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length, wanted or 512))
