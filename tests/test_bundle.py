"""A bundle is believed only when every byte is as its manifest says: here each kind of damage is tried."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import random
import shutil
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve import BundleError, InputError, Manifest, bundle, integrity, load, open_bundle
from burnish_serve.bundle import FORMAT, MANIFEST, File, Variant, describe_file, is_bundle

FILES = [
    "README.md",
    "config.json",
    "onnx/model.onnx",
    "onnx/model_int8.onnx",
    "tokenizer.json",
    "tokenizer_config.json",
]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)
floats = st.floats(allow_nan=False, allow_infinity=False)
BY_TYPE = {
    str: st.text(),
    int: st.integers(),
    float: floats,
    bool: st.booleans(),
    float | None: st.none() | floats,
    dict[str, typing.Any]: st.dictionaries(st.text(), json_values, max_size=4),
    tuple[str, ...]: st.lists(st.text(), max_size=4).map(tuple),
    dict[str, str]: st.dictionaries(st.text(), st.text(), max_size=3),
    dict[str, float]: st.dictionaries(st.text(), floats, max_size=3),
    tuple[dict[str, typing.Any], ...]: st.lists(st.dictionaries(st.text(), json_values), max_size=3).map(tuple),
    tuple[tuple[float, ...], ...]: st.lists(st.lists(floats, max_size=3).map(tuple), max_size=3).map(tuple),
}


def instances(kind: type, **given_fields: st.SearchStrategy) -> st.SearchStrategy:
    """Return a strategy for a dataclass from the types of its fields."""
    hints = typing.get_type_hints(kind)
    return st.builds(
        kind, **{name: BY_TYPE.get(hint) for name, hint in hints.items() if hint in BY_TYPE} | given_fields
    )


manifests = instances(
    Manifest,
    format=st.just(FORMAT),
    files=st.dictionaries(st.text(), instances(File), max_size=3),
    variants=st.dictionaries(st.text(), instances(Variant), max_size=2),
)


@given(manifests)
def test_a_manifest_comes_back_as_it_was_written(manifest):
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data) == manifest
    assert Manifest.from_bytes(data).to_bytes() == data
    json.loads(data.decode("utf-8"))


def test_the_committed_bundle_is_what_its_script_makes(tiny_bundle, tmp_path):
    import make_tiny_bundle

    make_tiny_bundle.main(tmp_path)
    made = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(made) == {*FILES, MANIFEST}
    for name, content in made.items():
        assert content == (tiny_bundle / name).read_bytes(), name


def test_a_whole_bundle_opens(tiny_bundle):
    opened = open_bundle(str(tiny_bundle))
    assert opened.folder == tiny_bundle
    assert sorted(opened.manifest.files) == sorted(FILES)
    assert opened.path("config.json").is_file()
    assert opened.manifest.labels == ("negative", "positive")
    assert is_bundle(tiny_bundle)


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_anywhere_is_found(bundle_copy, seed):
    random_place = random.Random(seed)
    for name in random_place.sample([*FILES, MANIFEST], 3):
        path = bundle_copy / name
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[random_place.randrange(len(whole))] ^= 1 << random_place.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=path.name):
            open_bundle(bundle_copy)
        path.write_bytes(whole)
    open_bundle(bundle_copy)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_file_that_is_cut_is_found(bundle_copy, name, keep):
    path = bundle_copy / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(BundleError, match=f"{path.name} is (damaged|not a bundle's manifest)"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(bundle_copy, name):
    (bundle_copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(bundle_copy)


def test_a_folder_in_place_of_a_file_is_found(bundle_copy):
    (bundle_copy / "README.md").unlink()
    (bundle_copy / "README.md").mkdir()
    with pytest.raises(BundleError, match=r"README\.md is missing"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize("name", ["extra.py", "onnx/model_fp16.onnx", "new/weights.bin", "onnx/model.sig", ".hidden"])
def test_a_file_that_is_not_listed_is_refused(bundle_copy, name):
    (bundle_copy / name).parent.mkdir(exist_ok=True)
    (bundle_copy / name).write_text("what am I")
    with pytest.raises(BundleError, match=f"{name} is refused: the manifest does not list it"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    "name", [".gitattributes", ".git/config", ".cache/huggingface/x.lock", "model.sig", "onnx/.gitkeep"]
)
def test_what_the_hub_and_git_leave_is_ignored(bundle_copy, name):
    (bundle_copy / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle_copy / name).write_text("left by others")
    open_bundle(bundle_copy)


@pytest.mark.parametrize("name", ["config.json", "onnx/model.onnx", "onnx", MANIFEST])
def test_a_link_is_refused_even_to_the_right_file(bundle_copy, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(bundle_copy / name, elsewhere)
    (bundle_copy / name).symlink_to(elsewhere)
    with pytest.raises(BundleError, match="is refused: it is a link"):
        open_bundle(bundle_copy)


def test_a_linked_folder_beside_the_files_is_refused(bundle_copy, tmp_path):
    (tmp_path / "empty").mkdir()
    (bundle_copy / "extra").symlink_to(tmp_path / "empty")
    with pytest.raises(BundleError, match="extra is refused: it is a link"):
        open_bundle(bundle_copy)


def test_a_link_in_a_folder_at_the_root_is_refused():
    # /dev is such a folder, and has links; a bundle may stand there in a container.
    with pytest.raises(BundleError, match="is refused: it is a link"):
        integrity.check_link(Path("/dev"), "stdin")


@pytest.mark.parametrize(
    "name",
    ["../outside.txt", "onnx/../../outside.txt", "/etc/hostname", "./README.md", "onnx//model.onnx", "a\\b", ""],
)
def test_a_path_that_leaves_the_folder_or_is_not_plain_is_refused(bundle_copy, edit_manifest, name):
    (bundle_copy.parent / "outside.txt").write_text("x")
    files = {**open_bundle(bundle_copy).manifest.files, name: describe_file(bundle_copy.parent / "outside.txt")}
    edit_manifest(bundle_copy, files=files)
    with pytest.raises(BundleError, match="which is not inside the bundle"):
        open_bundle(bundle_copy)


def hashed(values: dict) -> bytes:
    """Return a manifest's canonical bytes from any values, with the right hash: what a forger would write."""
    dump = {"indent": 1, "sort_keys": True, "ensure_ascii": False}
    values = {key: value for key, value in values.items() if key != "sha256"}
    own = hashlib.sha256((json.dumps(values, **dump) + "\n").encode()).hexdigest()
    return (json.dumps({**values, "sha256": own}, **dump) + "\n").encode()


@pytest.fixture(scope="module")
def written(tiny_bundle) -> dict:
    return json.loads((tiny_bundle / MANIFEST).read_bytes())


def test_a_newer_format_says_to_upgrade(written):
    with pytest.raises(BundleError, match=f"has format {FORMAT + 1}, .*reads up to {FORMAT}: "):
        Manifest.from_bytes(hashed({**written, "format": FORMAT + 1, "what": "the future brings"}))


def test_the_forger_of_these_tests_is_good_enough(written, tiny_bundle):
    assert hashed(written) == (tiny_bundle / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda data: data + b"\n",
        lambda data: data.rstrip(),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: json.dumps(json.loads(data)).encode(),
        lambda data: data.replace(b'"stride": 0', b'"stride": 0,\n "stride": 0'),
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.replace(b"negative", b"n\\u0065gative"),
    ],
    ids=["a line more", "no last line", "crlf", "mark", "other spaces", "a key twice", "utf-16", "escapes"],
)
def test_a_manifest_that_is_not_canonical_is_refused(tiny_bundle, rewrite):
    data = (tiny_bundle / MANIFEST).read_bytes()
    assert rewrite(data) != data
    with pytest.raises(BundleError, match="is damaged"):
        Manifest.from_bytes(rewrite(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'{"labels": []}',
        b'{"format": "1"}',
        b'{"format": 1}',
        b'{"format": 1, "a": "\\ud800"}',
        b'{"format": 1, "a": ' + b"1" * 5000 + b"}",
        b'{"format": 1, "a": ' + b"[" * 100_000,
        b'{"format": 1, "a": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    ],
    ids=["empty", "null", "list", "no format", "text", "alone", "half a surrogate pair", "large", "deep", "less deep"],
)
def test_whatever_else_is_called_manifest_is_refused(data):
    with pytest.raises(BundleError):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_length", "16"),
        ("max_length", True),
        ("max_length", 16.0),
        ("labels", "positive"),
        ("labels", ["positive", 1]),
        ("labels", None),
        ("defaults", {"CPUExecutionProvider": "int8"}),
        ("reference_score", "1"),
        pytest.param("reference_score", 10**400, id="reference_score-beyond float"),
        ("golden_rows", ["text"]),
        ("files", {"README.md": {"size": 1}}),
        ("files", {"README.md": {"size": 1, "sha256": "", "url": "http://"}}),
        ("variants", {}),
        ("variants", []),
        ("format", 0),
        ("format", True),
        ("unknown", 1),
    ],
)
def test_a_key_of_the_wrong_type_is_refused_even_with_the_right_hash(bundle_copy, written, key, value):
    (bundle_copy / MANIFEST).write_bytes(hashed({**written, key: value}))
    with pytest.raises(BundleError, match=r"manifest\.json.*(refused|is not)"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize("key", [item.name for item in dataclasses.fields(Manifest)])
def test_a_missing_key_is_refused(written, key):
    with pytest.raises(BundleError, match=key):
        Manifest.from_bytes(hashed({name: value for name, value in written.items() if name != key}))


def test_a_variant_whose_file_is_not_listed_is_refused(bundle_copy, edit_manifest):
    variants = open_bundle(bundle_copy).manifest.variants
    other = dataclasses.replace(variants["fp32"], file="onnx/other.onnx")
    edit_manifest(bundle_copy, variants={**variants, "fp32": other})
    with pytest.raises(BundleError, match=r"variant 'onnx/other\.onnx' is not among its files"):
        open_bundle(bundle_copy)


def test_a_manifest_that_is_too_large_is_not_read(bundle_copy, monkeypatch):
    monkeypatch.setattr(bundle, "MANIFEST_MAX_BYTES", 100)
    with pytest.raises(BundleError, match="at most 100 bytes"):
        open_bundle(bundle_copy)


def test_folders_that_are_no_bundles(bundle_copy, tmp_path):
    (bundle_copy / MANIFEST).unlink()
    assert not is_bundle(bundle_copy)
    with pytest.raises(BundleError, match=r"not a bundle: it has no manifest\.json"):
        open_bundle(bundle_copy)
    for missing in ("nowhere", "bundle/README.md"):
        with pytest.raises(InputError, match=f"no such bundle: .*{missing}"):
            open_bundle(tmp_path / missing)


def test_a_folder_that_cannot_be_listed_is_refused(bundle_copy, monkeypatch):
    whole = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    (bundle_copy / "closed").mkdir()
    open_bundle(bundle_copy)
    monkeypatch.setattr(os, "scandir", scandir)  # permissions do not stop the root user
    with pytest.raises(BundleError, match="closed cannot be read: Permission denied"):
        open_bundle(bundle_copy)


@pytest.fixture
def cached(tiny_bundle, tmp_path) -> Path:
    """Return the bundle as the Hub's cache holds it: a snapshot of links into the repository's blobs."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / "abc123"
    (repository / "blobs").mkdir(parents=True)
    for name in (*FILES, MANIFEST):
        blob = repository / "blobs" / hashlib.sha1(name.encode()).hexdigest()  # noqa: S324  # as the Hub names them
        shutil.copy(tiny_bundle / name, blob)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + name.count("/")), "blobs", blob.name))
    return snapshot


def test_the_hubs_cache_loads(cached):
    assert (cached / "onnx/model.onnx").is_symlink()
    assert load(cached, device="cpu")("great film")[0]["label"] == "positive"


def test_the_hubs_cache_is_checked_like_any_other(cached):
    (cached / "README.md").resolve().write_text("damaged")
    with pytest.raises(BundleError, match=r"README\.md is damaged"):
        open_bundle(cached)


def test_a_folder_in_the_hubs_cache_is_no_link(cached):
    (cached.parents[1] / "blobs" / "folder").mkdir()
    (cached / "extra").symlink_to(Path("../../blobs/folder"))  # what is in it would not be listed
    with pytest.raises(BundleError, match="extra is refused: it is a link"):
        open_bundle(cached)


def test_links_in_a_circle_in_the_hubs_cache_are_refused(cached):
    (cached / "config.json").unlink()
    (cached / "config.json").symlink_to("config.json")
    with pytest.raises(BundleError, match=r"config\.json is refused: it is a link"):
        open_bundle(cached)


@pytest.mark.parametrize(
    "target", ["models--someone--tiny/other/x", "models--another/blobs/x", "x", "models--someone--tiny/blobs/deep/x"]
)
def test_a_link_out_of_the_repositorys_blobs_is_refused(cached, target):
    outside = cached.parents[2] / target
    outside.parent.mkdir(parents=True, exist_ok=True)
    shutil.move((cached / "config.json").resolve(), outside)
    (cached / "config.json").unlink()
    (cached / "config.json").symlink_to(outside)
    with pytest.raises(BundleError, match=r"config\.json is refused: it is a link"):
        open_bundle(cached)
