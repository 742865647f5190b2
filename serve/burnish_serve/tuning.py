"""Settings of the runner that were measured on this machine, kept in a small file for each bundle and machine.

They change how fast a bundle answers. What it answers they change no more than other batches do: not at all where the
variant answers the same in any batch, as int8 does, in the last bits in float32, and visibly in dynamic int8, whose
answers depend on their neighbours anyway. OpenVINO alone computes by itself; it is held to the golden rows, and to the
same answer in any batch. ``burnish tune`` measures and writes them; whoever opens the bundle on the
same machine reads them. A file that was damaged, or was written on another processor, with other threads, another ONNX
Runtime or another bundle, is as good as none.

>>> Tuning().max_batch_tokens is None
True
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish_serve import machine
from burnish_serve.bundle import MANIFEST, Bundle, describe_file
from burnish_serve.writing import write_text


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What may differ from machine to machine; the defaults are what is taken where nothing was measured."""

    max_batch_tokens: int | None = None
    """Padded tokens of one batch at the most; None for what was seen to suit the provider."""
    callers: bool = True
    """Whether several batches are computed side by side by one thread each, or one after another by all."""
    spinning: bool = True
    """Whether threads that wait for work keep their processor busy."""
    cuda_graphs: bool = False
    """Whether small batches on CUDA are recorded and replayed (`burnish_serve.graphs`)."""
    openvino: bool = False
    """Whether OpenVINO takes the place of ONNX Runtime's own kernels for the CPU where no provider is asked for."""


def place(bundle: Bundle, variant: str, provider: str, threads: int) -> Path | None:
    """Return where the settings of a variant of a bundle on this machine are kept; None for a user without a home.

    The folder is ``tuning`` in that of `machine.cache_folder`.
    """
    cache = machine.cache_folder()
    if cache is None:
        return None
    key = {
        "manifest": describe_file(bundle.path(MANIFEST)).sha256,
        "variant": variant,
        "provider": provider,
        "threads": threads,
        "cpu": machine.cpu_name(),
        "features": machine.cpu_features(),
        **machine.onnxruntime_wheels(),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache / "tuning" / f"{name}.json"


def read(path: Path | None) -> Tuning | None:
    """Return the settings of a file; None where there is none that holds some."""
    if path is None:
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())["tuning"]
        tuning = Tuning(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    tokens = tuning.max_batch_tokens
    whole = tokens is None or (type(tokens) is int and tokens > 0)
    switches = (tuning.callers, tuning.spinning, tuning.cuda_graphs, tuning.openvino)
    return tuning if whole and all(type(switch) is bool for switch in switches) else None


def write(path: Path, tuning: Tuning) -> None:
    """Keep settings in a file, which appears when it is whole.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"tuning": dataclasses.asdict(tuning)}, indent=1) + "\n")
