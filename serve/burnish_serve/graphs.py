"""CUDA graphs: the kernels of a batch started at once, where starting them one by one takes longer than they run.

A graph is recorded for one shape and for fixed places in memory. So batches are padded to the next of a few shapes,
each of which has buffers on the device that inputs are copied into and outputs out of (ONNX Runtime's IO binding). The
first run of a shape records its graph, later ones replay it. Large batches keep the GPU busy anyway and run without.

``burnish tune`` measures whether they pay on a GPU; nothing else turns them on. On an H100 one run took
0.34 ms for 1.34 (bench/LOG.md).

>>> session = Graphs(create_session("model.onnx", provider=CUDA, graphs=True))  # doctest: +SKIP
>>> session.run(["logits"], feed)  # doctest: +SKIP
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from burnish_serve.session import Feed, import_onnxruntime

# Padded tokens of a batch: beyond, what a graph saves was lost in the padding or in the noise (bench/LOG.md).
LARGEST = 4096
SHORTEST = 16
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
Shape = tuple[int, int]


class _Recorded(NamedTuple):
    """A shape with its buffers."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    options: Any


class Graphs:
    """A session that records and replays; safe to call from several threads, which take turns.

    Args:
        session: an ``onnxruntime.InferenceSession`` whose inputs are int64 ``[batch, length]``, and whose outputs have
            no other dimensions that are open.
        longest: tokens of a text at the most.
        device: where the buffers are.
    """

    def __init__(self, session: Any, longest: int, *, device: str = "cuda") -> None:
        self.session = session
        self._longest = longest
        self._device = device
        self._open = session.get_inputs()[0].shape
        self._lock = threading.Lock()
        self._recorded: dict[Shape, _Recorded] = {}
        self._without = import_onnxruntime().RunOptions()
        self._without.add_run_config_entry("gpu_graph_id", "-1")

    def run(self, output_names: Sequence[str] | None, input_feed: Feed) -> list[npt.NDArray[Any]]:
        """Return the outputs for one batch."""
        own: Shape = next(iter(input_feed.values())).shape
        shape = bucket(own, self._longest)
        with self._lock:
            if shape is None:
                found: list[npt.NDArray[Any]] = self.session.run(output_names, input_feed, self._without)
                return found
            recorded = self._recorded.get(shape) or self._bind(shape)
            for name, array in input_feed.items():
                recorded.inputs[name].update_inplace(_padded(array, shape))
            self.session.run_with_iobinding(recorded.binding, recorded.options)
            outputs = {name: value.numpy() for name, value in recorded.outputs.items()}
            sizes = dict(zip(self._open, own, strict=True))
            return [self._cut(outputs[name], name, sizes) for name in output_names or outputs]

    def _bind(self, shape: Shape) -> _Recorded:
        """Return buffers of a shape, bound to the session's inputs and outputs, and kept."""
        runtime = import_onnxruntime()
        sizes = dict(zip(self._open, shape, strict=True))

        def buffers(items: Sequence[Any]) -> dict[str, Any]:
            return {
                item.name: runtime.OrtValue.ortvalue_from_shape_and_type(
                    [sizes.get(size, size) for size in item.shape], TYPES.get(item.type, np.int64), self._device, 0
                )
                for item in items
            }

        options = runtime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(self._recorded)))
        recorded = _Recorded(
            buffers(self.session.get_inputs()), buffers(self.session.get_outputs()), self.session.io_binding(), options
        )
        for name, value in recorded.inputs.items():
            recorded.binding.bind_ortvalue_input(name, value)
        for name, value in recorded.outputs.items():
            recorded.binding.bind_ortvalue_output(name, value)
        self._recorded[shape] = recorded
        return recorded

    def _cut(self, array: npt.NDArray[Any], name: str, sizes: dict[Any, int]) -> npt.NDArray[Any]:
        """Return a copy of an output without its padding: what it is cut of is overwritten by the next run."""
        shape = next(item.shape for item in self.session.get_outputs() if item.name == name)
        return array[tuple(slice(sizes.get(size, size)) for size in shape)].copy()

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the session has."""
        return getattr(self.session, name)


def bucket(shape: Shape, longest: int) -> Shape | None:
    """Return the shape ``(rows, length)`` that a batch is padded to; None where it is too large for a graph.

    >>> bucket((3, 20), 512), bucket((1, 400), 500), bucket((100, 100), 512)
    ((4, 32), (1, 500), None)
    """
    rows = 1 << (shape[0] - 1).bit_length()
    length = max(shape[1], min(longest, max(SHORTEST, 1 << (shape[1] - 1).bit_length())))
    return (rows, length) if rows * length <= LARGEST else None


def _padded(array: npt.NDArray[Any], shape: Shape) -> npt.NDArray[np.int64]:
    """Return an input with rows and columns of padding, which the mask hides."""
    padded = np.zeros(shape, dtype=np.int64)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded
