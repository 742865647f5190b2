"""A container with two CPUs on a large host must run two threads: every layout of control groups is tried here."""

from __future__ import annotations

import os

import pytest

from burnish_serve import load, machine

V1 = "sys/fs/cgroup/cpu,cpuacct"


def v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": quota + "\n", f"{folder}/cpu.cfs_period_us": period + "\n"}


TREES = {
    "v2": ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, "0::/", 1.5),
    "v2 without a period": ({"sys/fs/cgroup/cpu.max": "200000\n"}, "0::/", 2),
    "v2 without a quota": ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, "0::/", None),
    "v2, the group above decides": (
        {"sys/fs/cgroup/a/cpu.max": "400000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"},
        "0::/a/b",
        4,
    ),
    "v2, the least of two": (
        {"sys/fs/cgroup/a/cpu.max": "400000 100000", "sys/fs/cgroup/a/b/cpu.max": "50000 25000"},
        "0::/a/b",
        2,
    ),
    "v2, a brother does not count": ({"sys/fs/cgroup/c/cpu.max": "100000 100000"}, "0::/a/b", None),
    "v2, the host's name of our group": ({"sys/fs/cgroup/cpu.max": "300000 100000"}, "0::/docker/abc", 3),
    "v1": (v1(V1, "250000"), "4:cpu,cpuacct:/", 2.5),
    "v1 without a quota": (v1(V1, "-1"), "4:cpu,cpuacct:/", None),
    "v1, mounted as cpu": (v1("sys/fs/cgroup/cpu", "200000"), "4:cpu,cpuacct:/", 2),
    "v1, the group above decides": (
        v1(V1, "600000") | v1(f"{V1}/a", "300000") | v1(f"{V1}/a/b", "-1"),
        "4:cpu,cpuacct:/a/b",
        3,
    ),
    "v1, other controllers do not count": (v1("sys/fs/cgroup/cpuset", "100000"), "7:cpuset:/\n8:memory:/", None),
    "both, v2 without the cpu controller": (
        v1(V1, "200000") | {"sys/fs/cgroup/unified/cgroup.procs": "1"},
        "4:cpu,cpuacct:/\n0::/",
        2,
    ),
    "v2 mounted as unified": ({"sys/fs/cgroup/unified/cpu.max": "100000 50000"}, "0::/", 2),
    "no control groups": ({}, "", None),
}


@pytest.fixture
def plant(tmp_path):
    """Return a function that writes files below a root and returns it."""

    def write(files, group):
        for name, content in {**files, "proc/self/cgroup": group}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return write


@pytest.mark.parametrize(("files", "group", "quota"), TREES.values(), ids=TREES)
def test_quota(plant, files, group, quota):
    assert machine.cpu_quota(plant(files, group)) == quota


def test_no_quota_where_the_system_has_no_such_files(tmp_path):
    assert machine.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "threads"), [("200000", 2), ("150000", 1), ("50000", 1), ("799999", 7), ("6400000", 8), ("max", 8)]
)
def test_threads_are_the_least_of_affinity_and_quota(plant, monkeypatch, quota, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.num_threads(plant({"sys/fs/cgroup/cpu.max": f"{quota} 100000"}, "0::/")) == threads


def test_this_machine_is_described():
    about = machine.description()
    assert 1 <= about["threads"] <= os.cpu_count()
    assert about["memory_gib"] > 0
    assert about["cpu"]
    assert set(machine.cpu_features()) <= set(machine.CPU_FEATURES)


@pytest.mark.parametrize(
    ("system", "processor", "cpuinfo", "features"),
    [
        ("Linux", "x86_64", "model name\t: X\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", "avx2 avx512f avx512_vnni"),
        ("Linux", "aarch64", "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", "asimddp i8mm"),
        ("Linux", "aarch64", "Features\t: fp asimd\n", ""),
        ("Linux", "arm64", "", ""),
        ("Darwin", "arm64", "", "asimddp"),
        ("Darwin", "x86_64", "", ""),
    ],
)
def test_features_of_processors(monkeypatch, system, processor, cpuinfo, features):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: processor)
    monkeypatch.setattr(machine, "_read", lambda path: cpuinfo if str(path) == "/proc/cpuinfo" else "")
    assert machine.cpu_features() == tuple(features.split())


@pytest.fixture
def installed(monkeypatch):
    """Return a function that makes these distributions, and no others, look installed."""
    return lambda **versions: monkeypatch.setattr(machine, "version", lambda name: versions.get(name.replace("-", "_")))


def test_one_wheel_is_no_conflict(installed):
    installed(onnxruntime_gpu="1.22.0", numpy="2.0")
    assert machine.wheel_conflict() is None
    assert machine.onnxruntime_wheels() == {"onnxruntime-gpu": "1.22.0"}


def test_two_wheels_are_a_conflict_that_says_what_to_do(installed, tiny_bundle):
    installed(onnxruntime="1.22.0", onnxruntime_gpu="1.22.0")
    assert "pip uninstall onnxruntime onnxruntime-gpu, then install the one extra" in machine.wheel_conflict()
    with pytest.warns(RuntimeWarning, match="onnxruntime and onnxruntime-gpu are both installed"):
        load(tiny_bundle, device="cpu")


def test_versions():
    assert machine.version("burnish")
    assert machine.version("no-such-distribution") is None
