"""ONNX Runtime sessions: the one place that builds them and chooses their options and providers.

What a session runs on is what it says after it was made: names of providers whose libraries do not load are listed as
available, and a provider that fails leaves the work to the CPU without an error. So both are compared here.

>>> session = create_session("bundle/onnx/model_int8.onnx")  # doctest: +SKIP
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from burnish_serve import machine
from burnish_serve.errors import BundleError, DeviceError, MissingExtraError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DEVICES = ("auto", *PROVIDERS)
# onnxruntime's kernel for Add + LayerNormalization in one is slower on CPUs than the two (bench/LOG.md).
DISABLED_OPTIMIZERS = {"CPUExecutionProvider": ["SkipLayerNormFusion"]}
# The smallest model there is (y = Identity(x), one float), to see what a provider does.
PROBE = base64.b64decode(
    "CAgSADo7ChAKAXgSAXkiCElkZW50aXR5EgVwcm9iZVoPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0="
)


class Session(Protocol):
    """What the runner needs of a session; ``onnxruntime.InferenceSession`` has it."""

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, npt.NDArray[Any]]) -> Sequence[Any]:
        """Return the outputs for one batch."""
        ...


def import_onnxruntime() -> Any:
    """Return the module.

    Raises:
        MissingExtraError: no wheel of ONNX Runtime is installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("running a model", "cpu") from error
    return onnxruntime


def provider_for(device: str) -> str:
    """Return the execution provider of a device; ``auto`` takes CUDA where it really runs.

    Raises:
        DeviceError: the device is unknown, or was asked for and cannot be used.
    """
    if device not in DEVICES:
        raise DeviceError(f"no device is named {device!r}; the devices are: {', '.join(DEVICES)}")
    if device == "cpu":
        return PROVIDERS["cpu"]
    cause = probe(PROVIDERS["cuda"])
    if cause is None:
        return PROVIDERS["cuda"]
    if device == "cuda":
        raise DeviceError(f"cannot run on cuda: {cause}")
    return PROVIDERS["cpu"]


def probe(provider: str) -> str | None:
    """Return None where a session really runs on the provider, else why not, in a clause."""
    runtime = import_onnxruntime()
    if provider not in runtime.get_available_providers():
        wheels = machine.onnxruntime_wheels()
        found = ", ".join(f"{name} {version}" for name, version in wheels.items()) or "an unknown build"
        return machine.wheel_conflict() or f"the installed ONNX Runtime ({found}) is built without {provider}"
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(PROBE, options, providers=[provider])
        session.run(None, {"x": np.zeros(1, dtype=np.float32)})
    except Exception as error:  # the runtime raises many kinds, all of which mean that the provider does not work
        return str(error).strip().splitlines()[0]
    if session.get_providers()[0] != provider:
        return f"{provider} did not start (a library of it is missing or of another version)"
    return None


def create_session(
    path: str | Path, *, provider: str = PROVIDERS["cpu"], threads: int | None = None, profile: str | None = None
) -> Any:
    """Return an ``onnxruntime.InferenceSession`` that runs on the provider asked for.

    Args:
        path: an ONNX file.
        provider: the execution provider.
        threads: threads of one run; None for as many as this process may use.
        profile: where to write ONNX Runtime's profile; None for none.

    Raises:
        BundleError: the file is not a model that can be loaded.
        DeviceError: the session fell back to another provider.
    """
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or machine.num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    wanted = [provider] if provider == PROVIDERS["cpu"] else [provider, PROVIDERS["cpu"]]
    try:
        session = runtime.InferenceSession(
            str(path), options, providers=wanted, disabled_optimizers=DISABLED_OPTIMIZERS.get(provider, [])
        )
    except Exception as error:  # the runtime raises many kinds, and all mean that this file does not load
        raise BundleError(f"{path} cannot be loaded by ONNX Runtime: {str(error).strip().splitlines()[0]}") from error
    if session.get_providers()[0] != provider:
        raise DeviceError(f"asked for {provider}, but ONNX Runtime runs on {session.get_providers()[0]}")
    return session
