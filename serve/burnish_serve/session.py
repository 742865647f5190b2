"""ONNX Runtime sessions: the one place that builds them and chooses their options and providers.

What a session runs on is what it says after it was made, and what a profile of its first run says: names of providers
whose libraries do not load are listed as available, a provider that fails leaves the work to the CPU without an error,
and one that started may still have left every node to the CPU.

>>> session = create_session("bundle/onnx/model_int8.onnx")  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from burnish_serve import machine
from burnish_serve.errors import BundleError, DeviceError, InputError, MissingExtraError
from burnish_serve.providers import (
    CPU,
    CUDA,
    DEVICES,
    OPENVINO,
    PROVIDERS,
    TENSORRT,
    contradiction,
    explain_failure,
    library_problem,
    not_built,
    short_name,
    with_successors,
)

__all__ = [
    "CPU",
    "CUDA",
    "DEVICES",
    "OPENVINO",
    "PROVIDERS",
    "Feed",
    "Session",
    "create_session",
    "import_onnxruntime",
    "probe",
    "provider_for",
    "tried_session",
]

# onnxruntime's kernel for Add + LayerNormalization in one is slower on CPUs than the two (bench/LOG.md).
DISABLED_OPTIMIZERS = {CPU: ["SkipLayerNormFusion"]}
# A small model (y = x + x, two floats) to see what a provider does; tests/test_devices.py makes it again and compares.
PROBE = base64.b64decode("CAg6OQoOCgF4CgF4EgF5IgNBZGQSBXByb2JlWg8KAXgSCgoICAESBAoCCAJiDwoBeRIKCggIARIECgIIAkIECgAQDQ==")
Feed = Mapping[str, npt.NDArray[Any]]


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


def provider_for(device: str, provider: str | None = None) -> str:
    """Return ONNX Runtime's name of the execution provider to take.

    Args:
        device: the kind of hardware; ``auto`` takes CUDA where it really runs, else the CPU.
        provider: a short name that decides; it implies its device.

    Raises:
        DeviceError: the device or the provider is unknown, or was asked for and cannot be used.
        InputError: the two contradict each other.
    """
    if device not in DEVICES:
        raise DeviceError(f"no device is named {device!r}; the devices are: {', '.join(DEVICES)}")
    if provider is not None and provider not in PROVIDERS:
        raise DeviceError(f"no provider is named {provider!r}; the providers are: {', '.join(PROVIDERS)}")
    if problem := contradiction(device, provider):
        raise InputError(problem)
    wanted = provider or ("cuda" if device == "auto" else device)
    if wanted == "cpu":
        return CPU
    cause = probe(PROVIDERS[wanted])
    if cause is None:
        return PROVIDERS[wanted]
    if device == "auto" and provider is None:
        return CPU
    raise DeviceError(f"cannot run on {wanted}: {cause}")


def probe(provider: str) -> str | None:
    """Return None where a node of a small model really runs on the provider, else why not, in a clause."""
    try:
        _try(PROBE, lambda _: {"x": np.zeros(2, dtype=np.float32)}, provider, 1)
    except DeviceError as error:
        return str(error)
    return None


def create_session(
    path: str | Path,
    *,
    provider: str = CPU,
    threads: int | None = None,
    spinning: bool = True,
    graphs: bool = False,
) -> Any:
    """Return an ``onnxruntime.InferenceSession`` that runs on the provider asked for.

    Args:
        path: an ONNX file.
        provider: the execution provider.
        threads: threads of one run; None for as many as this process may use.
        spinning: whether threads that wait for work keep their processor busy.
        graphs: whether runs on CUDA can be recorded, see `burnish_serve.graphs`.

    Raises:
        BundleError: the file is not a model that can be loaded.
        DeviceError: the provider does not start, or not with this model.
    """
    try:
        return _start(str(path), provider, threads, spinning=spinning, graphs=graphs)
    except DeviceError as error:
        raise _sentence(path, provider, error) from error


def tried_session(
    path: str | Path, feed: Callable[[Any], Feed], *, provider: str, threads: int | None = None
) -> tuple[Any, dict[str, int]]:
    """Return a session as `create_session` does that has run once, and how many nodes ran on each provider.

    ONNX Runtime's profile of that run is the proof; it is over when the session is returned, and its file is gone.
    A provider that compiles a part of the graph, as OpenVINO and TensorRT do, runs that part as one node.

    Args:
        path: an ONNX file.
        feed: given the session, returns the inputs of the run, by name; may refuse the session by raising.
        provider: the execution provider.
        threads: threads of one run; None for as many as this process may use.

    Raises:
        BundleError: the file is not a model that can be loaded.
        DeviceError: the provider does not start with this model, fails, or runs not a single node of it.
    """
    try:
        return _try(str(path), feed, provider, threads)
    except DeviceError as error:
        raise _sentence(path, provider, error) from error


def _try(
    source: str | bytes, feed: Callable[[Any], Feed], provider: str, threads: int | None
) -> tuple[Any, dict[str, int]]:
    """Do what `tried_session` does; whatever is wrong is a `DeviceError` with a clause."""
    runtime = import_onnxruntime()
    options = runtime.RunOptions()
    options.log_severity_level = 4  # what is wrong is raised
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        session = _start(source, provider, threads, f"{folder}/first-run")
        inputs = feed(session)
        try:
            with _quiet(runtime):
                session.run(None, inputs, options)
        except Exception as error:  # the runtime raises many kinds
            raise DeviceError(_cause(provider, error)) from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = count_nodes(events)
    if not nodes.get(provider):
        where = ", ".join(f"{count} on {name}" for name, count in nodes.items()) or "none anywhere"
        raise DeviceError(f"not a single node ran on {provider} ({where}), although the session names it")
    return session, nodes


def count_nodes(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many nodes ran on each provider, from the events of ONNX Runtime's profile.

    Copies between the memory of two devices are left out: they compute nothing.
    """
    kernels = (
        event["args"]
        for event in events
        if event.get("cat") == "Node" and str(event.get("name")).endswith("_kernel_time") and "args" in event
    )
    return dict(
        Counter(
            kernel["provider"]
            for kernel in kernels
            if kernel.get("provider") and not str(kernel.get("op_name")).startswith("Memcpy")
        )
    )


def _start(
    source: str | bytes,
    provider: str,
    threads: int | None,
    profile: str = "",
    *,
    spinning: bool = True,
    graphs: bool = False,
) -> Any:
    """Return a session that says that it runs on the provider.

    Raises:
        DeviceError: there is none; the message is a clause that says why.
    """
    runtime = import_onnxruntime()
    if provider not in runtime.get_available_providers():
        raise DeviceError(machine.wheel_conflict() or not_built(provider))
    threads = threads or machine.num_threads()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3 if provider == CPU else 4  # what is wrong is raised, and is long with the others
    if provider == OPENVINO:  # it optimizes by itself, and best what nobody has rewritten before
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        with _quiet(runtime) if provider != CPU else contextlib.nullcontext():
            if provider in (CUDA, TENSORRT):
                runtime.preload_dlls()  # those of the wheels nvidia-*, which the loader does not find by itself
            session = runtime.InferenceSession(
                source,
                options,
                providers=with_successors(provider, threads, graphs=graphs),
                disabled_optimizers=DISABLED_OPTIMIZERS.get(provider, []),
                enable_fallback=0,  # else a run that fails is done again on the CPU, now and later
            )
    except Exception as error:  # the runtime raises many kinds
        raise DeviceError(_cause(provider, error)) from error
    if session.get_providers()[0] != provider:
        raise DeviceError(_cause(provider, f"it did not start, and {session.get_providers()[0]} took its place"))
    return session


def _cause(provider: str, said: object) -> str:
    """Return why a provider failed, in a clause: what is certain before what ONNX Runtime said."""
    runtime = import_onnxruntime()
    cuda_version = str(getattr(runtime, "cuda_version", "") or "")
    if provider != CPU:
        folder = Path(runtime.__file__).parent / "capi"
        if certain := machine.wheel_conflict() or library_problem(provider, folder, cuda_version):
            return certain
    return explain_failure(said, cuda_version)


def _sentence(path: str | Path, provider: str, error: DeviceError) -> BundleError | DeviceError:
    """Return the error for people: a file that the CPU cannot load either is at fault itself."""
    if provider != CPU:
        try:
            _start(str(path), CPU, 1)
        except DeviceError as own:
            error = own
        else:
            return DeviceError(f"cannot run {path} on {short_name(provider)}: {error}")
    return BundleError(f"{path} cannot be loaded by ONNX Runtime: {error}")


@contextlib.contextmanager
def _quiet(runtime: Any) -> Iterator[None]:
    """Keep ONNX Runtime from writing to our output and messages while a provider is tried; what is wrong is raised."""
    runtime.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        runtime.set_default_logger_severity(2)  # its own default, warnings
