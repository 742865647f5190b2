"""The ground floor of Burnish: bundle and text in, answers out, on ONNX Runtime alone.

>>> from burnish_serve import load
>>> model = load("bundle/")  # doctest: +SKIP
>>> model(["great film", "dull"])  # doctest: +SKIP
"""

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
from burnish_serve.opening import load
from burnish_serve.runner import Runner
from burnish_serve.tasks import TASKS, Task

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
    "load",
    "open_bundle",
]
