"""What runs is what the session and a profile of its first run say; what was asked for and not got has its cause.

No machine of ours has a GPU, so most tests stand a runtime in that lies as the real one does: it computes on the CPU,
and says what it is told to say. What real wheels said stands in docs/results.md. The tests of OpenVINO run where
onnxruntime-openvino is installed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from burnish_bench.cli import bench as bench_command
from burnish_serve import BundleError, DeviceError, InputError, load, machine, open_bundle, providers, session
from burnish_serve.choice import choose
from burnish_serve.cli import main
from burnish_serve.providers import PROVIDERS, explain_failure, explain_loader
from burnish_serve.session import CPU, CUDA, OPENVINO, PROBE, TENSORRT, create_session, probe, tried_session

# A graph of one operator (com.microsoft CDist of x [1, 2] with itself) that no provider but the CPU's has.
CPU_ONLY = base64.b64decode(
    "CAg6SAofCgF4CgF4EgF5IgVDRGlzdDoNY29tLm1pY3Jvc29mdBIFcHJvYmVaEwoBeBIOCgwIARIICgIIAQoCCAJiCQoBeRIECgIIAUIECgAQDUIR"
    "Cg1jb20ubWljcm9zb2Z0EAE="
)
DRIVER = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 CudaCall CUDA failure 35: CUDA driver version "
    "is insufficient for CUDA runtime version ; GPU=-1 ; hostname=host ; expr=cudaSetDevice(info_.device_id);\nmore"
)
openvino = pytest.mark.skipif(
    OPENVINO not in onnxruntime.get_available_providers(), reason="onnxruntime-openvino is not installed"
)


class FakeSession:
    """A real session on the CPU that names another provider, and whose profile may name it too."""

    def __init__(self, real, says: str, runs: str) -> None:
        self.real, self.says, self.runs = real, says, runs

    def __getattr__(self, name):
        return getattr(self.real, name)

    def get_providers(self) -> list[str]:
        """Return what was told."""
        return list(dict.fromkeys([self.says, CPU]))

    def end_profiling(self) -> str:
        """Return the profile, with the provider that was told."""
        if name := self.real.end_profiling():
            Path(name).write_text(Path(name).read_text(encoding="utf-8").replace(CPU, self.runs), encoding="utf-8")
        return name


class FakeRuntime:
    """ONNX Runtime as it is on a machine with this provider, or with its wheel alone."""

    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions
    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    cuda_version = "13.0"

    def __init__(self, provider: str, folder: Path) -> None:
        self.available = [provider, CPU]
        # What a session says and where its nodes run, of the probe and of any file.
        self.says: dict = {PROBE: provider, None: provider}
        self.runs: dict = {PROBE: provider, None: provider}
        self.raises: dict = {}
        self.preloaded = 0
        self.asked: list[tuple] = []
        self.severity: list[int] = []
        self.__file__ = str(folder / "onnxruntime" / "__init__.py")
        (folder / "onnxruntime" / "capi").mkdir(parents=True)

    def get_available_providers(self) -> list[str]:
        """Return what the wheel was built with."""
        return self.available

    def set_default_logger_severity(self, severity: int) -> None:
        """Note it."""
        self.severity.append(severity)

    def preload_dlls(self) -> None:
        """Write to standard output, as the real one does."""
        self.preloaded += 1
        print("Failed to load libcublasLt.so.13")

    def InferenceSession(self, source, options, *, providers, **rest):  # noqa: N802  # its name
        """Return a session on the CPU."""
        key = source if isinstance(source, bytes) else None
        if providers == [CPU]:
            return onnxruntime.InferenceSession(source, options, providers=[CPU])
        self.asked.append((providers, options, rest))
        print("EP Error")
        if error := self.raises.get(key):
            raise error
        real = onnxruntime.InferenceSession(source, options, providers=[CPU])
        return FakeSession(real, self.says[key], self.runs[key])


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """Return a function that makes ONNX Runtime look as if it had a provider."""

    def make(provider: str) -> FakeRuntime:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        fake = FakeRuntime(provider, tmp_path)
        monkeypatch.setattr(session, "import_onnxruntime", lambda: fake)
        return fake

    return make


@pytest.fixture
def profiles(monkeypatch, tmp_path) -> Path:
    """Return the folder in which temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def burnish(*arguments: object, command=main):
    result = CliRunner().invoke(command, list(map(str, arguments)))
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


def x(*shape: int):
    return lambda _: {"x": np.ones(shape, dtype=np.float32)}


# The proof


def test_the_small_graphs_are_what_their_comments_say():
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    opsets = [helper.make_opsetid("", 13)]

    def made(node, shape, out, opsets):
        values = [helper.make_tensor_value_info(*value) for value in (("x", kind, shape), ("y", kind, out))]
        graph = helper.make_graph([node], "probe", values[:1], values[1:])
        return helper.make_model(graph, ir_version=8, opset_imports=opsets).SerializeToString()

    assert made(helper.make_node("Add", ["x", "x"], ["y"]), [2], [2], opsets) == PROBE
    opsets.append(helper.make_opsetid("com.microsoft", 1))
    distance = helper.make_node("CDist", ["x", "x"], ["y"], domain="com.microsoft")
    assert made(distance, [1, 2], None, opsets) == CPU_ONLY


def test_the_probe_runs_on_the_cpu_and_leaves_no_profile(profiles):
    assert probe(CPU) is None
    assert list(profiles.iterdir()) == []


def test_a_profile_counts_the_nodes_and_is_over_when_the_session_is_returned(tiny_bundle, profiles, tmp_path):
    feed = {name: np.ones((1, 3), dtype=np.int64) for name in open_bundle(tiny_bundle).manifest.inputs}
    model, nodes = tried_session(tiny_bundle / "onnx/model.onnx", lambda _: feed, provider=CPU)
    assert set(nodes) == {CPU}
    assert nodes[CPU] > 3
    assert list(profiles.iterdir()) == []
    model.run(None, feed)
    assert model.end_profiling() == ""
    plain = create_session(tiny_bundle / "onnx/model.onnx")
    np.testing.assert_array_equal(model.run(None, feed)[0], plain.run(None, feed)[0])


def test_copies_between_devices_are_no_nodes():
    def kernel(operator: str, provider: str) -> dict:
        return {"cat": "Node", "name": "a_kernel_time", "args": {"op_name": operator, "provider": provider}}

    events = [
        kernel("MatMul", CPU),
        kernel("Add", CPU),
        kernel("MemcpyFromHost", CUDA),
        kernel("MemcpyToHost", CUDA),
        {"cat": "Node", "name": "a_fence_before", "args": {"op_name": "MatMul", "provider": CUDA}},
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "b_kernel_time"},
    ]
    assert session.count_nodes(events) == {CPU: 2}


@pytest.mark.parametrize("name", ["cuda", "openvino", "tensorrt"])
def test_a_provider_that_works_runs_the_bundle(runtime, profiles, tiny_bundle, tiny_model, name, capfd):
    fake = runtime(PROVIDERS[name])
    model = load(tiny_bundle, provider=name, variant="fp32", threads=3)
    assert model.provider == PROVIDERS[name]
    assert set(model.nodes) == {PROVIDERS[name]}
    assert model.max_batch_tokens == (8192 if name == "cuda" else 512)
    assert model(["great film", "dull"]) == tiny_model(["great film", "dull"])
    assert list(profiles.iterdir()) == []
    assert model.session.end_profiling() == ""  # the one that serves is not profiled
    assert capfd.readouterr() == ("", "")
    assert fake.severity == [4, 2] * (len(fake.severity) // 2)
    assert bool(fake.preloaded) == (name != "openvino")


def test_on_the_cpu_nothing_is_profiled(tiny_bundle, monkeypatch):
    monkeypatch.setattr("burnish_serve.opening.tried_session", None)
    model = load(tiny_bundle, device="cpu")
    assert (model.provider, model.nodes) == (CPU, None)


def test_auto_takes_cuda_where_it_runs_and_never_openvino_or_tensorrt(runtime, tiny_bundle):
    fake = runtime(CUDA)
    assert load(tiny_bundle, variant="fp32").provider == CUDA
    fake.available = [TENSORRT, OPENVINO, CPU]
    assert load(tiny_bundle).provider == CPU
    assert all(asked[0] == CUDA for asked, *_ in fake.asked)


# The lies


def test_a_session_that_falls_back_is_an_error(runtime, tiny_bundle):
    fake = runtime(CUDA)
    fake.says = {None: CPU, PROBE: CPU}
    with pytest.raises(DeviceError, match=f"^cannot run on cuda: it did not start, and {CPU} took its place$"):
        load(tiny_bundle, device="cuda")
    assert load(tiny_bundle, device="auto").provider == CPU


def test_a_session_that_names_a_provider_which_runs_nothing_is_an_error(runtime, tiny_bundle):
    runtime(CUDA).runs[PROBE] = CPU
    result = burnish("predict", tiny_bundle, "--text", "great film", "--device", "cuda")
    assert result.exit_code == 6
    assert result.stderr == (
        f"burnish: cannot run on cuda: not a single node ran on {CUDA} (1 on {CPU}), although the session names it\n"
    )


@pytest.mark.parametrize("lie", ["runs", "says", "raises"])
def test_a_model_that_does_not_run_where_the_probe_did_is_an_error(runtime, tiny_bundle, lie):
    fake = runtime(CUDA)
    if lie == "raises":
        fake.raises[None] = RuntimeError("out of memory")
    else:
        getattr(fake, lie)[None] = CPU
    asked = ["predict", tiny_bundle, "--text", "great film", "--variant", "fp32"]
    result = burnish(*asked, "--device", "cuda")
    said = {"runs": "not a single node ran on CUDA", "says": "it did not start", "raises": "out of memory"}
    assert result.exit_code == 6
    assert f"onnx/model.onnx on cuda: {said[lie]}" in result.stderr
    assert result.stderr.count("\n") == 1
    with pytest.warns(RuntimeWarning, match="taking the CPU: cannot run .*model.onnx on cuda"):
        assert load(tiny_bundle, variant="fp32").provider == CPU


def test_a_run_that_fails_is_an_error(runtime, tiny_bundle, monkeypatch):
    runtime(CUDA)
    calls = []

    def run(self, *arguments):
        calls.append(arguments)
        if len(calls) > 1:  # the probe's was the first
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=host")
        return self.real.run(*arguments)

    monkeypatch.setattr(FakeSession, "run", run, raising=False)
    with pytest.raises(DeviceError, match=r"on cuda: CUDA failure 700: an illegal memory access was encountered$"):
        load(tiny_bundle, device="cuda")


def test_a_file_that_no_provider_loads_is_a_damaged_bundle(runtime, tmp_path):
    runtime(CUDA).raises[None] = RuntimeError("cannot parse")
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"model.onnx cannot be loaded by ONNX Runtime"):
        create_session(tmp_path / "model.onnx", provider=CUDA)


def test_a_graph_that_is_not_the_manifests_is_refused_on_every_provider(runtime, bundle_copy, edit_manifest):
    runtime(CUDA)
    edit_manifest(bundle_copy, inputs=("input_ids",))
    with pytest.raises(BundleError, match=r"the inputs of .* are not input_ids"):
        load(bundle_copy, device="cuda")


# What is asked of ONNX Runtime


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cuda", [CUDA, CPU]),
        ("tensorrt", [(TENSORRT, ANY), CUDA, CPU]),
        ("openvino", [(OPENVINO, {"device_type": "CPU", "num_of_threads": "5"}), CPU]),
    ],
)
def test_each_provider_has_its_options_and_threads_of_the_quota(runtime, tiny_bundle, monkeypatch, name, wanted):
    fake = runtime(PROVIDERS[name])
    monkeypatch.setattr(machine, "num_threads", lambda: 5)
    load(tiny_bundle, provider=name, variant="fp32")
    asked, options, rest = fake.asked[-1]
    assert asked == wanted
    assert options.intra_op_num_threads == 5
    level = onnxruntime.GraphOptimizationLevel
    assert options.graph_optimization_level == (level.ORT_DISABLE_ALL if name == "openvino" else level.ORT_ENABLE_ALL)
    assert rest == {"disabled_optimizers": [], "enable_fallback": 0}


def test_what_has_no_variants_of_its_own_takes_those_of_what_it_is_like(tiny_bundle):
    manifest = open_bundle(tiny_bundle).manifest
    lists = {CPU: ("int8", "fp32"), CUDA: ("fp32",)}
    both = [vars(manifest) | {"defaults": defaults} for defaults in (lists, {**lists, OPENVINO: ("fp32",)})]
    without, own = (type(manifest)(**values) for values in both)
    chosen = {provider: choose(without, provider, machine.CPU_FEATURES)[0] for provider in PROVIDERS.values()}
    assert chosen == {CPU: "int8", OPENVINO: "int8", CUDA: "fp32", TENSORRT: "fp32"}
    assert choose(own, OPENVINO, machine.CPU_FEATURES)[0] == "fp32"


# Device and provider


CONTRADICTIONS = [("cuda", "openvino", "cpu"), ("cpu", "tensorrt", "cuda"), ("cpu", "cuda", "cuda")]


@pytest.mark.parametrize("verb", ["predict", "evaluate", "verify", "bench"])
@pytest.mark.parametrize(("device", "provider", "own"), CONTRADICTIONS)
def test_a_device_and_a_provider_that_contradict_are_wrong_usage(tiny_bundle, verb, device, provider, own):
    flags = {"predict": ["--text", "x"], "evaluate": ["--data", "rows.jsonl"]}.get(verb, [])
    arguments = [tiny_bundle, *flags, "--provider", provider, "--device", device]
    result = burnish(*arguments, command=bench_command) if verb == "bench" else burnish(verb, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"the provider {provider} runs on the device {own}, not on {device}" in result.stderr


def test_what_contradicts_or_is_unknown_is_said_in_python(tiny_bundle):
    with pytest.raises(InputError, match="the provider openvino runs on the device cpu, not on cuda"):
        load(tiny_bundle, device="cuda", provider="openvino")
    with pytest.raises(DeviceError, match="no provider is named 'xnnpack'; the providers are: cpu, cuda, openvino, te"):
        load(tiny_bundle, provider="xnnpack")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_provider_goes_with_its_device(tiny_bundle, device):
    assert load(tiny_bundle, device=device, provider="cpu").provider == CPU


def test_predict_and_evaluate_tell_the_provider(runtime, tiny_bundle, tmp_path):
    runtime(OPENVINO)
    (tmp_path / "rows.jsonl").write_text('{"text": "great film", "label": "positive"}\n' * 2)
    flags = ["--provider", "openvino", "--json"]
    said = json.loads(burnish("predict", tiny_bundle, "--text", "x", "--out", tmp_path / "a.jsonl", *flags).stdout)
    assert said["provider"] == OPENVINO
    assert said["nodes"][OPENVINO] > 3
    pytest.importorskip("sklearn")
    scored = json.loads(burnish("evaluate", tiny_bundle, "--data", tmp_path / "rows.jsonl", *flags).stdout)
    assert scored["provider"] == OPENVINO


def test_bench_tells_provider_and_nodes(runtime, tiny_bundle):
    runtime(OPENVINO)
    flags = ["--provider", "openvino", "--rounds", "1", "--seconds", "0", "--no-sweep", "--no-cold-start", "--json"]
    found = json.loads(burnish(tiny_bundle, *flags, command=bench_command).stdout)
    assert found["provider"] == OPENVINO
    assert all(variant["nodes"][OPENVINO] > 3 for variant in found["variants"].values())


def test_verify_replays_on_the_provider_what_was_made_for_it_and_the_rest_on_the_cpu(runtime, tiny_bundle):
    fake = runtime(OPENVINO)
    result = burnish("verify", tiny_bundle, "--provider", "openvino")
    assert result.exit_code == 0
    assert "on the CPU" not in result.stdout
    assert len(fake.asked) == 5  # the probe of each call, and both variants
    fake.available = [CUDA, CPU]
    fake.says = fake.runs = {PROBE: CUDA, None: CUDA}
    result = burnish("verify", tiny_bundle, "--provider", "cuda")
    assert "int8: 3 golden answers replayed on the CPU" in result.stdout


def test_a_checkpoint_has_no_providers(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "config.json").write_text("{}")
    result = burnish("evaluate", tmp_path, "--data", "rows.jsonl", "--provider", "openvino")
    assert result.exit_code == 1
    assert "is a checkpoint, which PyTorch runs: choose with --device, not --provider" in result.stderr


def test_doctor_tries_each_provider(runtime):
    runtime(CUDA)
    shown = burnish("doctor").stdout
    assert "provider   cpu: works\nprovider   cuda: works\nprovider   openvino: no: the installed ONNX" in shown
    assert set(json.loads(burnish("doctor", "--json").stdout)["providers"]) == set(PROVIDERS)


# The causes


def test_a_wheel_without_the_provider_is_named_with_what_to_install(tiny_bundle, monkeypatch):
    monkeypatch.setattr(machine, "onnxruntime_wheels", lambda: {"onnxruntime": "1.32.0"})
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    for name, extra in (("cuda", "gpu"), ("tensorrt", "gpu"), ("openvino", "openvino")):
        result = burnish("predict", tiny_bundle, "--text", "x", "--provider", name)
        assert result.exit_code == 6
        assert result.stderr == (
            f"burnish: cannot run on {name}: the installed ONNX Runtime (onnxruntime 1.32.0) is built without "
            f"{PROVIDERS[name]}: pip uninstall onnxruntime, then pip install 'burnish[{extra}]'\n"
        )


@pytest.mark.parametrize("available", [True, False], ids=["overwritten by gpu", "overwritten by cpu"])
def test_two_wheels_are_the_cause_said_once(runtime, tiny_bundle, monkeypatch, available):
    fake = runtime(CUDA if available else CPU)
    fake.says[PROBE] = CPU
    (Path(fake.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so").touch()
    monkeypatch.setattr(machine, "onnxruntime_wheels", lambda: {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    result = burnish("predict", tiny_bundle, "--text", "x", "--device", "cuda")
    assert result.exit_code == 6
    assert result.stderr.startswith("burnish: cannot run on cuda: onnxruntime and onnxruntime-gpu are both installed")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("content", "reason"), [(b"", "file too short"), (b"text, " * 20, "invalid ELF header")])
def test_a_broken_library_is_named(runtime, tiny_bundle, content, reason):
    fake = runtime(CUDA)
    fake.says[PROBE] = CPU
    library = Path(fake.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    library.write_bytes(content)
    result = burnish("predict", tiny_bundle, "--text", "x", "--device", "cuda")
    assert result.exit_code == 6
    assert f"cannot run on cuda: {library} cannot be loaded ({reason}); this ONNX Runtime needs CUDA" in result.stderr


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no compiler")
@pytest.mark.parametrize("how", ["missing", "broken"])
def test_a_library_of_the_library_is_named(runtime, tiny_bundle, tmp_path, how):
    fake = runtime(TENSORRT)
    fake.raises[PROBE] = RuntimeError("Please install TensorRT libraries")
    needed, library = tmp_path / "libnvinfer.so.10", Path(fake.__file__).parent / "capi"
    library /= "libonnxruntime_providers_tensorrt.so"
    for name, output in (("libnvinfer.so.10", needed), ("provider.so", library)):
        links = [needed] if output is library else []
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", "-x", "c", os.devnull, "-x", "none"]
        flags += [*links, f"-Wl,-rpath,{tmp_path}", "-o", output]
        subprocess.run(["gcc", *flags], check=True)
    needed.unlink()
    if how == "broken":
        needed.touch()
    result = burnish("predict", tiny_bundle, "--text", "x", "--provider", "tensorrt")
    assert result.exit_code == 6
    problem = "libnvinfer.so.10 is missing" if how == "missing" else f"{needed} cannot be loaded (file too short)"
    assert f"cannot run on tensorrt: {problem}; it is part of TensorRT 10: pip install" in result.stderr


CANNOT_OPEN = "cannot open shared object file: No such file or directory"
LOADER = {
    f"libcublasLt.so.13: {CANNOT_OPEN}": "libcublasLt.so.13 is missing; this ONNX Runtime needs CUDA 13 and cuDNN: pip "
    "install 'onnxruntime-gpu[cuda,cudnn]', or add the folder of an installed CUDA 13 to LD_LIBRARY_PATH",
    f"libcudnn.so.9: {CANNOT_OPEN}": "libcudnn.so.9 is missing; this ONNX Runtime needs CUDA 13 and cuDNN: ",
    f"libcuda.so.1: {CANNOT_OPEN}": "libcuda.so.1 is missing; it comes with the NVIDIA driver: ",
    f"libcudart.so.13: {CANNOT_OPEN}": "libcudart.so.13 is missing; this ONNX Runtime needs CUDA 13",
    f"libnvinfer.so.10: {CANNOT_OPEN}": "libnvinfer.so.10 is missing; it is part of TensorRT 10: pip install "
    "'tensorrt-cu13==10.*', and add the folder tensorrt_libs of site-packages to LD_LIBRARY_PATH",
    f"libtbb.so.12: {CANNOT_OPEN}": "libtbb.so.12 is missing",
    "/a/libcublasLt.so.13: file too short": "/a/libcublasLt.so.13 cannot be loaded (file too short); this ONNX",
    "/a/b/libonnxruntime_providers_cuda.so: undefined symbol: cudaMallocHost, version libcudart.so.13": "/a/b/libonnx"
    "runtime_providers_cuda.so cannot be loaded (undefined symbol: cudaMallocHost, version libcudart.so.13); this",
    "something else": "something else",
}


@pytest.mark.parametrize(("said", "explained"), LOADER.items())
def test_what_the_loader_says_is_explained(monkeypatch, said, explained):
    monkeypatch.setattr(providers, "_library_folders", lambda: iter(()))
    assert explain_loader(said, "13.0").startswith(explained)
    assert "CUDA  " not in explain_loader(said, "")


def test_a_library_of_another_version_or_in_another_folder_is_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}{os.pathsep}")
    (tmp_path / "libcublasLt.so.12").touch()
    other = f"libcublasLt.so.13 is missing, and {tmp_path}/libcublasLt.so.12 is of another version; this ONNX Runtime"
    assert explain_loader(f"libcublasLt.so.13: {CANNOT_OPEN}", "13.0").startswith(other)
    (tmp_path / "libcublasLt.so.13").touch()
    same = f"libcublasLt.so.13 is missing, although it lies in {tmp_path}; this ONNX Runtime needs CUDA 13"
    assert explain_loader(f"libcublasLt.so.13: {CANNOT_OPEN}", "13.0").startswith(same)


def test_what_onnx_runtime_says_is_one_clause():
    old = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    assert (
        explain_failure(RuntimeError(DRIVER), "13.0")
        == f"{old}; the NVIDIA driver is too old: install one for CUDA 13.0"
    )
    none = RuntimeError("CUDA failure 100: no CUDA-capable device is detected ; GPU=0")
    assert explain_failure(none, "13.0") == "CUDA failure 100: no CUDA-capable device is detected"
    assert explain_failure(RuntimeError("first\nsecond"), "") == "first"
    assert explain_failure(RuntimeError(), "") == "RuntimeError"
    long = explain_failure(RuntimeError(f"begin {'x' * 1000} end"), "")
    assert (long[:6], long[-4:], len(long)) == ("begin ", " end", providers.MAX_CLAUSE + 3)


# OpenVINO itself, where its wheel is installed


@openvino
def test_openvino_runs_the_bundle_and_answers_as_the_cpu_does(tiny_bundle):
    for variant in ("fp32", "int8"):
        model = load(tiny_bundle, provider="openvino", variant=variant)
        assert model.nodes[OPENVINO] >= 1
        assert model.session.get_providers()[0] == OPENVINO
        rows = ["great film", "dull", "", "the film is boring " * 5]
        np.testing.assert_allclose(model.logits(rows), load(tiny_bundle, variant=variant).logits(rows), atol=1e-5)


@openvino
def test_openvino_that_runs_nothing_of_a_graph_is_found_out(tmp_path):
    (tmp_path / "model.onnx").write_bytes(CPU_ONLY)
    assert create_session(tmp_path / "model.onnx", provider=OPENVINO).get_providers()[0] == OPENVINO  # so it says
    with pytest.raises(DeviceError, match=f"not a single node ran on {OPENVINO} .1 on {CPU}., although"):
        tried_session(tmp_path / "model.onnx", x(1, 2), provider=OPENVINO)


@openvino
def test_doctor_sees_openvino():
    assert "provider   openvino: works" in burnish("doctor").stdout
