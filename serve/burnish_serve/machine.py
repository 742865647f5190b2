"""What this machine is: processors that we may use, their features, memory, and which ONNX Runtime wheels stand here.

A container with a quota of two CPUs on a host of 64 must run two threads: the host's count is never used. The quota is
read from cgroup v2 (``cpu.max``) or v1 (``cpu.cfs_quota_us``), at our group and every group above it.

>>> num_threads() >= 1
True
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from pathlib import Path

ONNXRUNTIME_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
# Named in manifests: what decides whether a variant is right and fast on a processor.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")


def num_threads(root: Path = Path("/")) -> int:
    """Return how many threads may run at once: the least of affinity and CPU quota, and at least 1.

    Args:
        root: where ``proc`` and ``sys`` are read, for tests.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of our control group in processors, or None where there is none."""
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, group = line.split(":", 2)
        if hierarchy == "0":
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup/cpu"]
        else:
            continue
        for mount in mounts:
            folder = mount / group.lstrip("/")
            quotas += [_quota(step) for step in (folder, *folder.parents) if step.is_relative_to(mount)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path) -> float | None:
    if fields := _read(group / "cpu.max").split():
        quota, period = fields[0], fields[1] if len(fields) > 1 else "100000"
        return None if quota == "max" else int(quota) / int(period)
    quota, period = _read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def cache_folder() -> Path | None:
    """Return where what was found out on this machine is kept; None for a user without a home.

    It is ``$XDG_CACHE_HOME/burnish``, or ``~/.cache/burnish``.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"
    except RuntimeError:
        return None


def cpu_features() -> tuple[str, ...]:
    """Return which of `CPU_FEATURES` this processor has; empty where the system does not tell."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            return tuple(feature for feature in CPU_FEATURES if feature in flags)
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        return ("asimddp",)  # every Apple processor since the first for Macs; i8mm came with the second
    return ()


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Return the machine's physical memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def onnxruntime_wheels() -> dict[str, str]:
    """Return the installed ONNX Runtime wheels with their versions; more than one overwrite each other's files."""
    return {name: found for name in ONNXRUNTIME_WHEELS if (found := version(name))}


def wheel_conflict() -> str | None:
    """Return a sentence that says what to do where two ONNX Runtime wheels are installed, else None."""
    wheels = onnxruntime_wheels()
    if len(wheels) < 2:
        return None
    return (
        f"{' and '.join(wheels)} are both installed and overwrite each other's files: "
        f"pip uninstall {' '.join(wheels)}, then install the one extra that you need (cpu, gpu or openvino)"
    )


def description() -> dict[str, object]:
    """Return what a measurement must say about where it was taken."""
    return {
        "cpu": cpu_name(),
        "features": list(cpu_features()),
        "threads": num_threads(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "burnish": version("burnish"),
        **onnxruntime_wheels(),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
