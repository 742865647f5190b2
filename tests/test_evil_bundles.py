"""Bundles made to harm: each is refused with exit status 5, before ONNX Runtime or `tokenizers` sees a byte of it.

Whoever made them had all the bundle's hashes to write, so each manifest matches its files: only the evil is left. In
the tests that must not come so far, sessions and tokenizers are traps that end the test, and so is a file whose
opening does not return.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from burnish_serve import BundleError, Manifest, integrity, load, open_bundle
from burnish_serve.bundle import FORMAT, MANIFEST, File, describe_file

GRAPH = "onnx/model.onnx"
OUTSIDE = "onnx/../../secret.data"
NOTHING = File(size=0, sha256=hashlib.sha256(b"").hexdigest())


class Evil(NamedTuple):
    """What is done to a whole bundle, and what must be said of it."""

    make: Callable[[Path], dict[str, File] | None]
    """Takes the folder; returns what the manifest lists besides the files that there are; ``{}``: it stays as it is."""
    said: str


EVIL: dict[str, Evil] = {}


def evil(name: str, said: str):
    def note(make: Callable[[Path], dict[str, File] | None]):
        assert name not in EVIL
        EVIL[name] = Evil(make, said)
        return make

    return note


def relist(folder: Path, **more: File) -> None:
    """Write the manifest again, as a forger would: with every regular file that there is, and more."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {name: describe_file(folder / name) for name in names if name != MANIFEST}
    values = vars(Manifest.from_bytes((folder / MANIFEST).read_bytes()))
    (folder / MANIFEST).write_bytes(Manifest(**{**values, "files": {**files, **more}}).to_bytes())


# Names


def listed(name: str, content: bytes = b"{}") -> Callable[[Path], None]:
    """Return a maker that writes a file, which is then listed."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return make


def only_listed(name: str, file: File = NOTHING) -> Callable[[Path], dict[str, File]]:
    """Return a maker that lists what is not there."""
    return lambda folder: {name: file}


NOT_INSIDE = r"it lists the path .*, which is not inside the bundle"
MAY_BE_CODE = r"it may be code; a bundle holds files in \.onnx, "
evil("a path with ..", NOT_INSIDE)(only_listed(OUTSIDE))
evil("a path with .. that comes back", NOT_INSIDE)(only_listed("onnx/../config.json"))
evil("an absolute path", NOT_INSIDE)(only_listed("/etc/passwd"))
evil("a path of Windows", NOT_INSIDE)(only_listed("onnx\\..\\x.json"))
evil("control characters", "too long or cannot be printed")(listed("\x1b[2Jx.json"))
evil("a line break", "too long or cannot be printed")(listed("x\ny.json"))
evil("written right to left", "too long or cannot be printed")(listed("\u202enosj.json"))
evil("a null character", "too long or cannot be printed")(only_listed("x\0y.json"))
evil("a long name", "too long or cannot be printed")(only_listed("x" * 300 + ".json"))
evil("a deep path", "too long or cannot be printed")(only_listed("x/" * 2000 + "x.json"))
evil("names that differ in case", r"'config\.json' and 'Config\.json', which some file systems")(listed("Config.json"))
evil("names that differ in form", "some file systems")(
    lambda folder: listed("caf\u00e9.json")(folder) or listed("cafe\u0301.json")(folder)
)
evil("a second manifest", "some file systems")(listed("Manifest.json"))
evil("a manifest of the manifest", "some file systems")(only_listed(MANIFEST))


# Places


@evil("a link to a file outside", r"config\.json is refused: it is a link")
def _(folder):
    shutil.move(folder / "config.json", folder.parent / "config.json")
    (folder / "config.json").symlink_to(folder.parent / "config.json")


@evil("a link to a folder outside", "onnx is refused: it is a link")
def _(folder):
    shutil.move(folder / "onnx", folder.parent / "elsewhere")
    (folder / "onnx").symlink_to(folder.parent / "elsewhere")
    return {name: describe_file(folder / name) for name in (GRAPH, "onnx/model_int8.onnx")}


@evil("a link to a folder that is passed over", r"\.git is refused: it is a link")
def _(folder):
    listed("elsewhere/x.json")(folder.parent)
    (folder / ".git").symlink_to(folder.parent / "elsewhere")
    return {".git/x.json": describe_file(folder / ".git/x.json")}


@evil("a link to itself", r"loop\.json is refused: it is a link")
def _(folder):
    (folder / "loop.json").symlink_to("loop.json")
    return {"loop.json": NOTHING}


@evil("an extra file", r"readme\.txt is refused: the manifest does not list it")
def _(folder):
    relist(folder)
    (folder / "readme.txt").write_text("hello")
    return {}


@evil("an extra file with an evil name", r"'.*\\x1b\[2J' is refused: the manifest does not list it")
def _(folder):
    (folder / "\x1b[2J").write_text("hello")
    return {}


@evil("a pipe", r"pipe\.json is refused: it is a pipe, a socket or a device")
def _(folder):
    os.mkfifo(folder / "pipe.json")
    return {"pipe.json": NOTHING}


@evil("a pipe in place of the tokenizer", r"tokenizer\.json is refused: it is a pipe")
def _(folder):
    described = describe_file(folder / "tokenizer.json")
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    return {"tokenizer.json": described}


@evil("a pipe that is not listed", "extra is refused: the manifest does not list it")
def _(folder):
    os.mkfifo(folder / "extra")


@evil("a pipe in place of the manifest", r"it has no manifest\.json")
def _(folder):
    relist(folder)
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    return {}


@evil("a socket", r"x\.json is refused: it is a pipe, a socket or a device")
def _(folder):
    with socket.socket(socket.AF_UNIX) as made, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the path of a socket is a short one
        made.bind("x.json")
    return {"x.json": NOTHING}


@evil("folders too deep to be looked into", r"cannot be read: File name too long")
def _(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _ in range(25):
            Path("x" * 200).mkdir()
            os.chdir("x" * 200)
        Path("hidden.py").write_text("print('hello')")
    return {}


# Sizes

for size in (2**60, 2**70, 10**30, -1):
    evil(f"a size of {size}", rf"it says that README\.md has {size} bytes; it may have 0 to \d+")(
        lambda folder, size=size: {"README.md": File(size=size, sha256="0" * 64)}
    )
evil("a size that is large and true to a file with holes", "it may have 0 to")(
    lambda folder: os.truncate(folder / "README.md", 2**27) or {"README.md": File(size=2**27, sha256="0" * 64)}
)


@evil("a file that is cut", r"tokenizer\.json is damaged: it has 100 bytes, not the \d+ of the manifest")
def _(folder):
    relist(folder)
    os.truncate(folder / "tokenizer.json", 100)
    return {}


@evil("a graph that is cut, and the manifest knows", r"model\.onnx is not an ONNX model that can be trusted")
def _(folder):
    os.truncate(folder / GRAPH, 1000)


@evil("a newer format", rf"has format {FORMAT + 1}, and this burnish reads up to {FORMAT}: pip install -U burnish")
def _(folder):
    values = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps({**values, "format": FORMAT + 1, "anything": "else"}))
    return {}


# Code

PICKLED = pickle.dumps({"weights": [1.0]})


def zipped() -> bytes:
    """Return an archive as ``torch.save`` writes one."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", PICKLED)
        return file.getvalue()


for name in (
    "model.pkl",
    "pytorch_model.bin",
    "model.pt",
    "lib.so",
    "modeling.py",
    "x.PKL",
    "run",
    "a.json.py",
    ".json",
):
    evil(f"listed: {name}", rf"{name} is refused: {MAY_BE_CODE}")(listed(name, PICKLED))
evil("listed: a module", rf"code/__init__\.py is refused: {MAY_BE_CODE}")(listed("code/__init__.py", b"import os"))
evil("a pickle named .json", r"x\.json is not JSON in UTF-8")(listed("x.json", PICKLED))
evil("a pickle in letters named .json", r"x\.json is not JSON in UTF-8")(
    listed("x.json", pickle.dumps({"a": 1}, protocol=0))
)
evil("a pickle in place of the tokenizer", r"tokenizer\.json is not JSON")(listed("tokenizer.json", PICKLED))
evil("a pickle named .onnx", r"x\.onnx is not an ONNX model")(listed("onnx/x.onnx", PICKLED))
evil("a pickle named .txt", r"x\.txt is not a text")(listed("x.txt", PICKLED))
evil("a text with a null character", r"README\.md is not a text")(listed("README.md", b"a\0b"))
for number in (4, 5):
    evil(f"a pickle named .data, protocol {number}", r"x\.data is refused: it begins like another kind of file")(
        listed("onnx/x.data", pickle.dumps({"a": 1}, protocol=number))
    )
evil("an archive named .onnx_data", r"x\.onnx_data is refused: it begins like")(listed("onnx/x.onnx_data", zipped()))
evil("a program named .png", r"x\.png is refused: it begins like")(listed("x.png", b"\x7fELF" + bytes(60)))
evil("a page named .png", r"x\.png is refused: it begins like")(listed("x.png", b"<script>"))
evil("JSON that is a list", r"config\.json is not a JSON object")(listed("config.json", b"[]"))
evil("JSON in UTF-16", r"config\.json is not JSON in UTF-8")(listed("config.json", "{}".encode("utf-16")))
evil("JSON nested without end", r"config\.json is not JSON in UTF-8")(listed("config.json", b'{"a":' + b"[" * 100_000))
for key in ("auto_map", "trust_remote_code", "custom_pipelines"):
    for name in ("config.json", "tokenizer_config.json", "more/processor_config.json"):
        evil(f"{key} in {name}", rf"{name} is refused: its key '{key}' asks for code")(
            listed(name, json.dumps({"model_type": "bert", key: {"AutoModel": "modeling.Model"}}).encode())
        )


# Graphs


def outside(location: str, **numbers: int) -> TensorProto:
    """Return a tensor of four bytes whose data lies elsewhere."""
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "far")
    external_data_helper.set_external_data(tensor, location, **numbers)
    tensor.ClearField("raw_data")
    return tensor


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["unused"], value=tensor)


def changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    """Return a maker that changes the graph."""

    def make(folder: Path) -> None:
        (folder.parent / "secret.data").write_bytes(bytes(64))
        model = onnx.load(folder / GRAPH)
        change(model)
        (folder / GRAPH).write_bytes(model.SerializeToString())

    return make


def function(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Add a function of the model's own, and call it."""
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Own", [], ["unused"], [node], opset))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node.append(helper.make_node("Own", [], ["unused"], domain="local"))


def branch(tensor: TensorProto) -> onnx.NodeProto:
    """Return a node with a graph in it, which holds the tensor."""
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("far", 1, [1])], [tensor])
    return helper.make_node("If", ["condition"], ["unused"], then_branch=inner, else_branch=inner)


FAR = r"model\.onnx is refused: the data of its tensor 'far' lies in '.*', which is not a file of the bundle"
for location in (
    "/etc/passwd",
    "../../secret.data",
    "../config.json",
    "..",
    "a\\..\\x.data",
    "secret.data",
    "./x.data",
):
    evil(f"external data in {location}", FAR)(
        changed(lambda model, place=location: model.graph.initializer.append(outside(place)))
    )
evil("external data in memory", FAR)(
    changed(lambda model: model.graph.initializer.append(outside("*/_ORT_MEM_ADDR_/*", offset=4096, length=4)))
)
evil("external data in a folder", FAR)(changed(lambda model: model.graph.initializer.append(outside("."))))


@evil("external data in the manifest", FAR)
def _(folder):
    whole = (folder / GRAPH).read_bytes()
    changed(lambda model: model.graph.initializer.append(outside(MANIFEST)))(folder)
    (folder / GRAPH).rename(folder / "a_model.onnx")
    (folder / GRAPH).write_bytes(whole)


evil("external data in an attribute", FAR)(
    changed(lambda model: model.graph.node.append(constant(outside("../../secret.data"))))
)
evil("external data in a graph in a node", FAR)(
    changed(lambda model: model.graph.node.append(branch(outside("../../secret.data"))))
)
evil("external data in a function", FAR)(changed(lambda model: function(model, constant(outside("../../secret.data")))))
evil("external data in a graph in a function", FAR)(
    changed(lambda model: function(model, branch(outside("../../secret.data"))))
)
evil("external data in a sparse tensor", FAR)(
    changed(lambda model: model.graph.sparse_initializer.add().values.CopyFrom(outside("../../secret.data")))
)


def with_data(size: int, **numbers: int) -> Callable[[Path], None]:
    """Return a maker of a graph with external data in the folder, of another size than it says."""

    def make(folder: Path) -> None:
        listed("onnx/w.data", bytes(size))(folder)
        changed(lambda model: model.graph.initializer.append(outside("w.data", **numbers)))(folder)

    return make


evil("external data by another path than the manifest's", FAR)(
    lambda folder: (
        listed("onnx/w.data", bytes(4))(folder)
        or changed(lambda model: model.graph.initializer.append(outside("./w.data")))(folder)
    )
)
TOO_SHORT = r"'w\.data', which has {} bytes, not {}"
evil("external data that is too short", TOO_SHORT.format(3, 4))(with_data(3))
evil("external data behind the end", TOO_SHORT.format(8, 9))(with_data(8, offset=5))
evil("external data longer than its file", TOO_SHORT.format(8, 2**60))(with_data(8, length=2**60))
evil("external data far behind the end", TOO_SHORT.format(8, 2**62 + 4))(with_data(8, offset=2**62))


def with_dims(*dims: int) -> Callable[[Path], None]:
    return changed(
        lambda model: model.graph.initializer[0].ClearField("dims") or model.graph.initializer[0].dims.extend(dims)
    )


NOT_TRUSTED = r"model\.onnx is not an ONNX model that can be trusted: "
evil("huge dimensions", NOT_TRUSTED + r"the tensor 'weights' declares \d+ elements")(with_dims(2**20, 2**20))
evil("dimensions beyond all numbers", NOT_TRUSTED + "a tensor has a size below 0 or beyond")(with_dims(2**40, 2**40))
evil("a dimension below 0", NOT_TRUSTED + "a tensor has a size below 0 or beyond")(with_dims(-1))


@evil("huge dimensions with external data", r"'w\.data', which has 8 bytes, not 4398046511104")
def _(folder):
    tensor = outside("w.data")
    tensor.dims[:] = [2**40]
    listed("onnx/w.data", bytes(8))(folder)
    changed(lambda model: model.graph.initializer.append(tensor))(folder)


NEEDS_CODE = r"model\.onnx is refused: its operator '{}' of the domain '{}' needs code, and a bundle is data"
for domain, operator in (
    ("my.ops", "Evil"),
    ("ai.onnx.contrib", "PyOp"),
    ("org.pytorch.aten", "ATen"),
    ("com.microsoft", "EPContext"),
    ("com.microsoft", "PythonOp"),
):
    evil(f"an operator of {domain}: {operator}", NEEDS_CODE.format(operator, domain))(
        changed(
            lambda model, domain=domain, name=operator: model.graph.node.append(
                helper.make_node(name, ["logits"], ["unused"], domain=domain)
            )
        )
    )
evil("an operator of another domain in a function", NEEDS_CODE.format("Evil", "my.ops"))(
    changed(lambda model: function(model, helper.make_node("Evil", [], ["unused"], domain="my.ops")))
)


@evil("a graph under another name", r"its variant 'onnx/model\.json' is not a file in \.onnx")
def _(folder):
    (folder / GRAPH).rename(folder / "onnx/model.json")
    (folder / "onnx/model.json").write_text("{}")
    values = (folder / MANIFEST).read_bytes().replace(b'"onnx/model.onnx"', b'"onnx/model.json"')
    manifest = json.loads(values)
    del manifest["sha256"]
    canonical = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    manifest["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


# The tests


@pytest.fixture
def traps(monkeypatch):
    """End the test where a session or a tokenizer is made of a file, or where opening one does not return."""

    def reached(*_, **__):
        pytest.fail("the bundle was used before it was refused")

    class Trap:
        from_file = from_str = from_buffer = reached

    def hang(*_):
        pytest.fail("it hangs")

    monkeypatch.setattr("burnish_serve.session.create_session", reached)
    monkeypatch.setattr("burnish_serve.opening.create_session", reached)
    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)
    monkeypatch.setattr("burnish_serve.text.Tokenizer", Trap)
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def make_evil(bundle_copy):
    """Return a function that makes a bundle of the table."""

    def make(name: str) -> Path:
        more = EVIL[name].make(bundle_copy)
        if more is None or more:
            relist(bundle_copy, **(more or {}))
        return bundle_copy

    yield make
    shutil.rmtree(bundle_copy, ignore_errors=True)  # pytest's own cleaning stops at the deep one


def test_the_traps_work(tiny_bundle, traps):
    from burnish_serve.text import TextEncoder

    for use in (
        lambda: load(tiny_bundle, device="cpu"),
        lambda: onnxruntime.InferenceSession(str(tiny_bundle / GRAPH)),
        lambda: TextEncoder(tiny_bundle / "tokenizer.json", 16),
    ):
        with pytest.raises(pytest.fail.Exception, match="used before it was refused"):
            use()


def test_a_bundle_that_is_only_listed_again_is_whole(bundle_copy):
    relist(bundle_copy)
    assert load(bundle_copy, device="cpu")("great film")[0]["label"] == "positive"


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_bundle_is_refused_before_it_is_used(make_evil, traps, name):
    folder = make_evil(name)
    with pytest.raises(BundleError, match=EVIL[name].said) as caught:
        load(folder, device="cpu")
    assert caught.value.exit_status == 5
    assert str(caught.value).isprintable(), "it may not write to the terminal as it likes"
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name",
    [
        "a path with ..",
        "a link to a folder outside",
        "a pipe in place of the tokenizer",
        "a size of 1152921504606846976",
        "listed: model.pkl",
        "auto_map in config.json",
        "external data in ../../secret.data",
        "huge dimensions",
        "an operator of my.ops: Evil",
    ],
)
def test_the_command_says_one_sentence(make_evil, run_burnish, name):
    done = run_burnish("verify", make_evil(name))
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("burnish: ")


# What looks alike and is good


@pytest.fixture
def weights_outside(bundle_copy) -> Path:
    """Return a bundle whose graphs read their weights from files that the manifest lists."""
    for file in (GRAPH, "onnx/model_int8.onnx"):
        data = f"{Path(file).stem}.onnx_data"
        model = onnx.load(bundle_copy / file)
        # Axes stay where they are: ONNX Runtime wants to see them while it reads the graph.
        onnx.save_model(model, bundle_copy / file, save_as_external_data=True, location=data, size_threshold=64)
        assert (bundle_copy / "onnx" / data).stat().st_size > 100
    relist(bundle_copy)
    return bundle_copy


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_external_data_that_the_manifest_lists_is_read(weights_outside, tiny_bundle, variant):
    rows = ["great film", "dull", "It was never boring, and the music is nice!"]
    external = integrity.read_onnx(open_bundle(weights_outside).path(GRAPH)).external
    assert {tensor.location for tensor in external} == {"model.onnx_data"}
    found = load(weights_outside, variant=variant, device="cpu", threads=1).logits(rows)
    np.testing.assert_array_equal(found, load(tiny_bundle, variant=variant, device="cpu", threads=1).logits(rows))


def test_external_data_is_checked_like_any_other_file(weights_outside, traps):
    path = weights_outside / "onnx" / "model.onnx_data"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BundleError, match=r"model\.onnx_data is damaged: its contents"):
        load(weights_outside, device="cpu")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (folder / "empty" / "empty").mkdir(parents=True),
        listed("LICENSE", b"Apache-2.0"),
        listed("sub/NOTICE", b"by us"),
        listed("curve.png", b"\x89PNG\r\n\x1a\nand so on"),
        listed("curve.svg", b"<svg/>"),
        listed("auto_map/caf\u00e9.json", b'{"labels": ["auto_map"], "x": {"trust_remote_code": "caf\xc3\xa9"}}'),
        listed("onnx/w.data", b"\x80\x02\x00\x00 floats begin as they like"),
        listed("empty.txt", b""),
        changed(lambda model: function(model, helper.make_node("Identity", ["logits"], ["unused"]))),
        changed(lambda model: model.opset_import.append(helper.make_opsetid("pkg.torch", 1))),
        changed(
            lambda model: model.graph.node[0].ClearField("domain") or setattr(model.graph.node[0], "domain", "ai.onnx")
        ),
        with_data(8, offset=4, length=4),
    ],
    ids=[
        "an empty folder",
        "a licence",
        "a notice below",
        "a picture",
        "a drawing",
        "a value of code's keys",
        "weights",
        "an empty text",
        "a function of its own",
        "an operator set that is not used",
        "a domain's long name",
        "external data up to the end",
    ],
)
def test_what_is_harmless_is_not_refused(bundle_copy, make):
    make(bundle_copy)
    relist(bundle_copy)
    open_bundle(bundle_copy)
