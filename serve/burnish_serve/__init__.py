"""The ground floor of Burnish: bundle and text in, answers out, on ONNX Runtime alone.

>>> from burnish_serve import load
>>> model = load("bundle/")  # doctest: +SKIP
>>> model(["great film", "dull"])  # doctest: +SKIP
"""

import os

from burnish_serve.bundle import Manifest, open_bundle
from burnish_serve.errors import (
    BundleError,
    BurnishError,
    DeviceError,
    InputError,
    MissingExtraError,
    PerformanceGateError,
    ProofError,
    QualityGateError,
)
from burnish_serve.explaining import explain
from burnish_serve.opening import load
from burnish_serve.runner import Runner
from burnish_serve.tasks import TASKS, Task

# ONNX Runtime sends what it sees of a machine to its maker unless this was set before it starts.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "TASKS",
    "BundleError",
    "BurnishError",
    "DeviceError",
    "InputError",
    "Manifest",
    "MissingExtraError",
    "PerformanceGateError",
    "ProofError",
    "QualityGateError",
    "Runner",
    "Task",
    "explain",
    "load",
    "open_bundle",
]
