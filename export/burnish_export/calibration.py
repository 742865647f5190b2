"""Calibration: what flows into the products with constant weights, seen on real rows, in the memory of one batch.

Two passes over the rows: the first finds the least and greatest value of each channel, the second counts values in a
histogram between them. Padding is left out. A range for 8 bits then comes from one of three methods:

- ``minmax``: all that was seen;
- ``percentile``: without the outermost 0.01 % of the values;
- ``entropy``: where clipping and rounding together change the distribution least (S. Migacz, 8-bit Inference with
  TensorRT, 2017).

>>> observed = observe(Path("model.onnx"), network, rows, Path("."))  # doctest: +SKIP
>>> limits(observed["gelu"], "percentile")  # doctest: +SKIP
(-0.17, 3.2)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from burnish_export.graph import module_of, save
from burnish_export.network import Network
from burnish_serve import batching
from burnish_serve.runner import MAX_BATCH_TOKENS
from burnish_serve.session import create_session
from burnish_serve.tasks import Encoded

METHODS = ("minmax", "percentile", "entropy")
OUTSIDE = 1e-4
BINS = 2048
LEVELS = 128
Channels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Observed:
    """The values of one tensor ``[batch, length, channels]`` or ``[batch, channels]`` on the calibration rows."""

    low: Channels
    """Least value of each channel, at most 0: float32 ``[channels]``."""
    high: Channels
    """Greatest value of each channel, at least 0: float32 ``[channels]``."""
    counts: npt.NDArray[np.int64]
    """Histogram over all channels between the least and the greatest value: ``[BINS]``."""

    @property
    def span(self) -> tuple[float, float]:
        """Return the least and the greatest value of all."""
        return float(self.low.min()), float(self.high.max())


def constant_products(graph: ir.Graph) -> list[ir.Node]:
    """Return the MatMul nodes whose second input is a constant matrix ``[inputs, outputs]``."""
    found = []
    for node in graph:
        if node.op_type == "MatMul" and node.domain == "":
            weight = node.inputs[1]
            if weight is not None and weight.const_value is not None and len(weight.const_value.shape) == 2:
                found.append(node)
    return found


def product_inputs(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """Return the products that read each tensor, by its name: such as query, key and value of one layer."""
    groups: dict[str, list[ir.Node]] = {}
    for node in constant_products(graph):
        if node.inputs[0] is not None and node.inputs[0].name:
            groups.setdefault(node.inputs[0].name, []).append(node)
    return groups


def group_name(nodes: Sequence[ir.Node]) -> str:
    """Return the PyTorch modules of products that read one tensor: ``layer.0.attention.self.{query,key,value}``."""
    modules = list(dict.fromkeys(module_of(node) for node in nodes))
    if len(modules) == 1:
        return modules[0]
    parts = [module.split(".") for module in modules]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ".".join([*parts[0][:shared], "{" + ",".join(".".join(part[shared:]) for part in parts) + "}"])


def observe(path: Path, network: Network, rows: Sequence[Encoded], scratch: Path) -> dict[str, Observed]:
    """Return what was seen of each tensor that flows into a product with constant weights.

    Batches are ragged as in use, and memory is that of one batch whatever the number of rows.

    Args:
        path: the float32 graph.
        network: knows the graph's inputs.
        rows: encoded texts.
        scratch: a folder for the graph with its inner tensors as outputs.
    """
    model = ir.load(path)
    names = sorted(product_inputs(model.graph))
    if not names:
        return {}
    values = {value.name: value for node in model.graph for value in node.outputs}
    del model.graph.outputs[:]
    model.graph.outputs.extend(values[name] for name in names)
    watched = scratch / "calibration.onnx"
    save(model, watched)
    session = create_session(watched)

    def tensors() -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        for indices in batching.plan([len(row.ids) for row in rows], MAX_BATCH_TOKENS):
            feed = network.feed([rows[i] for i in indices])
            real = feed["attention_mask"].astype(bool)
            for name, tensor in zip(names, session.run(names, feed), strict=True):
                of_tokens = tensor.ndim == 3 and tensor.shape[:2] == real.shape
                yield name, tensor[real] if of_tokens else tensor.reshape(-1, tensor.shape[-1])

    low: dict[str, Channels] = {}
    high: dict[str, Channels] = {}
    for name, found in tensors():  # zero is always inside: padding and masks must be exact
        low[name] = np.minimum(low.get(name, np.float32(0)), found.min(axis=0))
        high[name] = np.maximum(high.get(name, np.float32(0)), found.max(axis=0))
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in names}
    for name, found in tensors():
        start, end = float(low[name].min()), float(high[name].max())
        bins = ((found.ravel() - start) * (BINS / max(end - start, 1e-30))).astype(np.int32)
        counts[name] += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
    for left in scratch.glob(f"{watched.name}*"):
        left.unlink()
    return {name: Observed(low[name], high[name], counts[name]) for name in names}


def limits(observed: Observed, method: str) -> tuple[float, float]:
    """Return the least and greatest value that 8 bits shall stand for, zero between them.

    Args:
        observed: from `observe`.
        method: one of `METHODS`.
    """
    low, high = observed.span
    if method == "minmax" or high <= low:
        return low, high
    edges = np.linspace(low, high, BINS + 1)
    if method == "percentile":
        below = np.cumsum(observed.counts) / max(1, observed.counts.sum())
        first = int(np.searchsorted(below, OUTSIDE / 2, side="right"))
        last = int(np.searchsorted(below, 1 - OUTSIDE / 2))
        return min(0.0, float(edges[first])), max(0.0, float(edges[min(last, BINS - 1) + 1]))
    threshold = _entropy_threshold(observed.counts, (edges[:-1] + edges[1:]) / 2)
    return max(low, -threshold), min(high, threshold)


def _entropy_threshold(counts: npt.NDArray[np.int64], centers: npt.NDArray[np.float64]) -> float:
    """Return the magnitude at which clipping loses least: the least Kullback-Leibler divergence of 16 candidates."""
    largest = float(np.abs(centers).max())
    magnitudes = np.histogram(np.abs(centers), bins=BINS, range=(0, largest), weights=counts)[0]
    best, found = np.inf, BINS
    for size in range(LEVELS, BINS + 1, LEVELS):
        clipped = magnitudes[:size].copy()
        clipped[-1] += magnitudes[size:].sum()
        groups = magnitudes[:size].reshape(LEVELS, -1)
        filled = clipped.reshape(LEVELS, -1) > 0
        share = groups.sum(axis=1) / np.maximum(1, filled.sum(axis=1))
        rounded = np.where(filled, share[:, None], 0).ravel()
        divergence = _divergence(clipped, rounded)
        if divergence < best:
            best, found = divergence, size
    return largest * found / BINS


def _divergence(wanted: npt.NDArray[np.float64], given: npt.NDArray[np.float64]) -> float:
    """Return the Kullback-Leibler divergence of two histograms, each made to sum to 1."""
    if not given.sum() or not wanted.sum():
        return float("inf")
    p, q = wanted / wanted.sum(), np.maximum(given / given.sum(), 1e-12)
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
