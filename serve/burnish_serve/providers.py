"""Execution providers by name, and why one does not start: a clause that says what is missing and what to install.

ONNX Runtime calls a provider available when its wheel was built with it, whether or not its libraries load here. Where
they do not, it goes on with the CPU and says why in a log alone. The dynamic loader knows for certain, and is asked.

>>> contradiction("cuda", "openvino")
"the provider openvino runs on the device cpu, not on cuda: leave one of the two out, or take --device cpu"
"""

from __future__ import annotations

import ctypes
import os
import re
import site
from collections.abc import Iterator
from pathlib import Path

from burnish_serve import machine

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
CPU, CUDA, OPENVINO, TENSORRT = (PROVIDERS[name] for name in ("cpu", "cuda", "openvino", "tensorrt"))
DEVICES = ("auto", "cpu", "cuda")
# The device that each provider runs on, and the extra that brings it.
DEVICE_OF = {"cpu": "cpu", "cuda": "cuda", "openvino": "cpu", "tensorrt": "cuda"}
EXTRA_OF = {"cpu": "cpu", "cuda": "gpu", "openvino": "openvino", "tensorrt": "gpu"}
# Whose variants a provider takes where a manifest does not name it.
LIKE = {OPENVINO: CPU, TENSORRT: CUDA}
# What the dynamic loader says: `libcublasLt.so.13: cannot open shared object file: No such file or directory`.
LOADER = re.compile(r"(?P<path>\S*?(?P<name>lib[^/\s]+?)\.so\S*?): (?P<said>.+)")
CUDA_FAILURE = re.compile(r"CUDA failure (?P<number>\d+): (?P<said>[^;\n]+)")
# Characters of what ONNX Runtime says that are shown at the most.
MAX_CLAUSE = 300
# CUDA's numbers for a driver that is too old, and for a program that is too new for it.
DRIVER_TOO_OLD = {"35", "803"}


def contradiction(device: str, provider: str | None) -> str | None:
    """Return a sentence where a device and a provider cannot both be meant, else None."""
    if provider is None or device in ("auto", DEVICE_OF[provider]):
        return None
    own = DEVICE_OF[provider]
    return (
        f"the provider {provider} runs on the device {own}, not on {device}: "
        f"leave one of the two out, or take --device {own}"
    )


def short_name(provider: str) -> str:
    """Return the name that ``--provider`` takes."""
    return next((short for short, name in PROVIDERS.items() if name == provider), provider)


def with_successors(provider: str, threads: int, *, graphs: bool) -> list[str | tuple[str, dict[str, str]]]:
    """Return a provider with its options, and behind it those that take the nodes which it cannot run."""
    if provider == CUDA and graphs:
        return [(CUDA, {"enable_cuda_graph": "1"}), CPU]
    if provider == OPENVINO:
        return [(OPENVINO, {"device_type": "CPU", "num_of_threads": str(threads)}), CPU]
    if provider == TENSORRT:
        return [(TENSORRT, _engine_cache()), CUDA, CPU]
    return [CPU] if provider == CPU else [provider, CPU]


def _engine_cache() -> dict[str, str]:
    """Return the options by which TensorRT keeps what it has compiled, which takes it minutes."""
    cache = machine.cache_folder()
    if cache is None:
        return {}
    folder = cache / "tensorrt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    parts = ("trt_engine_cache", "trt_timing_cache")
    return {f"{part}_enable": "1" for part in parts} | {f"{part}_path": str(folder) for part in parts}


def not_built(provider: str) -> str:
    """Return why a wheel that was built without a provider cannot run it, in a clause."""
    wheels = machine.onnxruntime_wheels()
    found = ", ".join(f"{name} {version}" for name, version in wheels.items()) or "an unknown build"
    short = short_name(provider)
    advice = f": pip uninstall {' '.join(wheels)}, then pip install 'burnish[{EXTRA_OF[short]}]'" if wheels else ""
    return f"the installed ONNX Runtime ({found}) is built without {provider}{advice}"


def library_problem(provider: str, folder: Path, cuda_version: str) -> str | None:
    """Return which library keeps a provider from loading and what to do, in a clause; None where it loads.

    To be called once ONNX Runtime has tried the provider and failed: its libraries must not be loaded before it is.

    Args:
        provider: the execution provider.
        folder: where ONNX Runtime's own libraries lie.
        cuda_version: of the CUDA that they were built for, as 13.0; empty where that is not known.
    """
    library = folder / f"libonnxruntime_providers_{short_name(provider)}.so"
    if not library.is_file():
        return None
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return explain_loader(str(error), cuda_version)
    return None


def explain_loader(said: str, cuda_version: str) -> str:
    """Return what the dynamic loader said, in a clause with what to do about it."""
    found = LOADER.match(said)
    if found is None:
        return said
    path, name, reason = found["path"], found["name"], found["said"]
    if reason.endswith("No such file or directory"):
        problem = f"{path} is missing{_elsewhere(path, name)}"
    else:
        problem = f"{path} cannot be loaded ({reason})"
    major = cuda_version.partition(".")[0]
    if name == "libcuda" or name.startswith("libnvidia"):
        return f"{problem}; it comes with the NVIDIA driver: install that, and give a container its GPU (--gpus all)"
    if name.startswith(("libnvinfer", "libnvonnxparser")):
        version = path.rpartition(".")[2]
        package = f"tensorrt-cu{major}" if major else "tensorrt"
        return (
            f"{problem}; it is part of TensorRT {version}: pip install '{package}=={version}.*', "
            "and add the folder tensorrt_libs of site-packages to LD_LIBRARY_PATH"
        )
    if name.startswith(("libcu", "libnv", "libonnxruntime_providers_cuda", "libonnxruntime_providers_tensorrt")):
        cuda = f"CUDA {major}" if major else "CUDA"
        return (
            f"{problem}; this ONNX Runtime needs {cuda} and cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]', "
            f"or add the folder of an installed {cuda} to LD_LIBRARY_PATH"
        )
    return problem


def explain_failure(error: object, cuda_version: str) -> str:
    """Return what ONNX Runtime said when a provider failed, an exception or a text, in a clause."""
    found = CUDA_FAILURE.search(str(error))
    if found is None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # ONNX Runtime puts whole signatures of C++ between what failed and why.
        return lines[0] if len(lines[0]) <= MAX_CLAUSE else f"{lines[0][:100]} … {lines[0][100 - MAX_CLAUSE :]}"
    said = f"CUDA failure {found['number']}: {found['said'].strip()}"
    if found["number"] in DRIVER_TOO_OLD:
        said += f"; the NVIDIA driver is too old: install one for CUDA {cuda_version}".rstrip()
    return said


def _elsewhere(path: str, name: str) -> str:
    """Return where a library that was not found lies, or one of another version; empty where there is none."""
    others = [other for folder in _library_folders() for other in sorted(folder.glob(f"{name}.so.*"))]
    for other in others:
        if other.name == Path(path).name:
            return f", although it lies in {other.parent}"
    return f", and {others[0]} is of another version" if others else ""


def _library_folders() -> Iterator[Path]:
    """Yield the folders where CUDA's libraries may lie, also those that the dynamic loader does not know."""
    yield from (Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder)
    for packages in site.getsitepackages():
        yield from Path(packages).glob("nvidia/*/lib")
    for root in ("/usr/local", "/opt"):
        yield from Path(root).glob("cuda*/lib*")
    yield from Path("/usr/lib").glob("*-linux-gnu")
