"""What several tests of exporting share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import transformers
from onnx import numpy_helper

from burnish_export import ExportConfig
from tiny_model import LABELS, labelled_rows

ROWS = labelled_rows(180)[120:]
# Ragged, cut at 16 tokens, in pieces, unknown, empty.
TEXTS = [*(row["text"] for row in ROWS[:46]), "wakes songs raining", "now " * 30 + "wake", "ß ✓ zebra", ""]


def nothing_left(config: ExportConfig) -> bool:
    """Return whether an export left neither a bundle nor a part of one."""
    return not config.out.exists() and not list(config.out.parent.glob("*"))


def swapped_labels(model: onnx.ModelProto) -> None:
    """Let two labels change places at the graph's end."""
    places = onnx.helper.make_node("Gather", ["straight", "places"], ["logits"], axis=1)
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    last.output[0] = "straight"
    model.graph.node.append(places)
    order = np.array([1, 0, *range(2, len(LABELS))])
    model.graph.initializer.append(numpy_helper.from_array(order, "places"))


def in_transformers(folder: Path, texts: list[str], max_length: int) -> np.ndarray:
    """Return the logits of transformers' own model and tokenizer, all texts in one padded batch."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        return model(**batch).logits.numpy()
