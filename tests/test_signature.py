"""A signature shows who made a bundle, also where somebody made all hashes right again."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("model_signing", reason="the extra sign is not installed")
import model_signing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from burnish_export.cli import export as command_export
from burnish_export.config import ExportConfig
from burnish_serve import BundleError, InputError, Manifest, load, open_bundle, opening, signature
from burnish_serve.bundle import MANIFEST, describe_file
from burnish_serve.cli import main
from burnish_serve.signature import SIGNATURE, open_signed, sign, verify

PEM = serialization.Encoding.PEM
VERBS = {
    "predict": ["--text", "great film"],
    "evaluate": ["--data", "rows.jsonl"],
    "inspect": [],
    "verify": ["--device", "cpu"],
    "bench": ["--rounds", "1", "--seconds", "0", "--no-sweep"],
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail whatever opens a connection."""

    def connect(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


def write_keys(folder: Path, name: str, key, password: str | None = None) -> tuple[Path, Path]:
    """Write ``name.pem`` and ``name.pub`` and return their paths."""
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, lock))
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """Return a folder with the keys ``own`` and ``other``, and with some that are of no use."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        write_keys(folder, name, ec.generate_private_key(ec.SECP256R1()))
    write_keys(folder, "locked", ec.generate_private_key(ec.SECP256R1()), "secret")
    write_keys(folder, "rsa", rsa.generate_private_key(65537, 2048))
    write_keys(folder, "ed25519", ed25519.Ed25519PrivateKey.generate())
    write_keys(folder, "bitcoin", ec.generate_private_key(ec.SECP256K1()))
    for ending in (".pem", ".pub"):
        (folder / f"words{ending}").write_text("open sesame", encoding="utf-8")
        (folder / f"bytes{ending}").write_bytes(bytes(range(256)))
        (folder / f"empty{ending}").write_bytes(b"")
        (folder / f"folder{ending}").mkdir()
    return folder


@pytest.fixture
def signed(bundle_copy, keys) -> Path:
    """Return a bundle signed with the key ``own``."""
    assert sign(bundle_copy, keys / "own.pem") == bundle_copy / SIGNATURE
    return bundle_copy


def rewrite_manifest(folder: Path) -> None:
    """Make every hash right again, as whoever changes a file can."""
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = {name: describe_file(folder / name) for name in sorted(names) if name not in {MANIFEST, SIGNATURE}}
    (folder / MANIFEST).write_bytes(Manifest(**{**vars(manifest), "files": files}).to_bytes())


def flip_a_bit(folder: Path, name: str) -> None:
    """Change one bit of a file so that the bundle still opens, with all hashes made right."""
    whole = (folder / name).read_bytes()
    for place in range(len(whole) // 2, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        (folder / name).write_bytes(changed)
        rewrite_manifest(folder)
        with contextlib.suppress(BundleError):  # it may be no JSON any more
            open_bundle(folder)
            return
    raise AssertionError(f"no bit of {name} can be changed unseen")


def sign_as_a_stranger(folder: Path, key: Path, ignored: list[str]) -> None:
    """Sign with the package itself."""
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=[SIGNATURE, *ignored])
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashing).sign(folder, folder / SIGNATURE)


# What holds


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_what_was_signed_verifies(bundle_copy, tmp_path, curve):
    private, public = write_keys(tmp_path, "key", ec.generate_private_key(curve()))
    sign(bundle_copy, private)
    assert verify(bundle_copy, public) == open_bundle(bundle_copy)
    assert open_signed(str(bundle_copy), str(public)).folder == bundle_copy
    assert load(bundle_copy, device="cpu", public_key=public)("great film")[0]["label"] == "positive"
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "key.pem", "key.pub"}, "something was left behind"


def test_a_signed_bundle_opens_without_a_key(signed):
    assert open_signed(signed, None) == open_bundle(signed)


def test_a_signature_stays_right_where_the_folder_is_renamed_or_named_by_a_point(signed, keys, monkeypatch):
    moved = signed.rename(signed.with_name("elsewhere"))
    verify(moved, keys / "own.pub")
    monkeypatch.chdir(moved)
    verify(".", keys / "own.pub")
    sign(".", keys / "other.pem")
    verify(moved, keys / "other.pub")


def test_what_the_hub_and_git_leave_needs_no_signature(signed, keys, tmp_path):
    for name in (".gitattributes", ".git/config", ".cache/huggingface/x.lock", "onnx/.gitkeep", "onnx/.cache/x"):
        (signed / name).parent.mkdir(parents=True, exist_ok=True)
        (signed / name).write_text("left by others", encoding="utf-8")
    (signed / ".cache" / "dangling").symlink_to("nowhere")
    verify(signed, keys / "own.pub")
    sign(signed, keys / "other.pem")
    shutil.rmtree(signed / ".cache")
    verify(signed, keys / "other.pub")


def test_a_bundle_in_the_hubs_cache_verifies(signed, keys, tmp_path):
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / "abc123"
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(item for item in signed.rglob("*") if item.is_file())):
        link = snapshot / path.relative_to(signed)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(shutil.move(path, repository / "blobs" / str(number)))
    verify(snapshot, keys / "own.pub")
    blob = (snapshot / "README.md").resolve()
    blob.write_text("another", encoding="utf-8")
    with pytest.raises(BundleError, match=r"README\.md is damaged"):
        verify(snapshot, keys / "own.pub")


def test_signing_again_replaces_the_signature(signed, keys):
    sign(signed, keys / "other.pem")
    verify(signed, keys / "other.pub")
    with pytest.raises(BundleError, match="not made with the private half"):
        verify(signed, keys / "own.pub")


def test_the_packages_own_command_verifies_ours_and_we_its(signed, keys):
    command = [sys.executable, "-m", "model_signing"]
    (signed / ".cache").mkdir()
    (signed / ".cache" / "x").write_text("left by the Hub", encoding="utf-8")
    where = ["--signature", signed / SIGNATURE, signed]
    done = subprocess.run([*command, "verify", "key", "--public_key", keys / "own.pub", *where], capture_output=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(signed / ".cache")
    done = subprocess.run([*command, "sign", "key", "--private_key", keys / "other.pem", *where], capture_output=True)
    assert done.returncode == 0, done.stderr
    verify(signed, keys / "other.pub")


# What does not


def test_a_bundle_without_a_signature_is_refused(tiny_bundle, keys):
    with pytest.raises(BundleError, match=r"bundle is refused: it is not signed \(it has no model\.sig\)"):
        verify(tiny_bundle, keys / "own.pub")


def test_damage_is_found_before_anything_is_said_of_the_signature(signed, keys):
    (signed / "config.json").unlink()
    with pytest.raises(BundleError, match=r"config\.json is missing"):
        verify(signed, keys / "own.pub")


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "onnx/model.onnx", "onnx/model_int8.onnx", "tokenizer.json"]
)
def test_one_bit_and_a_manifest_with_all_hashes_right(signed, keys, name):
    flip_a_bit(signed, name)
    with pytest.raises(
        BundleError, match=rf"not those that were signed \((manifest\.json, {name}|{name}, manifest\.json)\)"
    ):
        verify(signed, keys / "own.pub")


def test_a_manifest_that_says_something_else(signed, keys, edit_manifest):
    edit_manifest(signed, labels=("positive", "negative"))
    open_bundle(signed)
    with pytest.raises(BundleError, match=r"not those that were signed \(manifest\.json\)"):
        verify(signed, keys / "own.pub")


def test_a_file_added_and_listed(signed, keys):
    (signed / "extra.json").write_text("{}", encoding="utf-8")
    rewrite_manifest(signed)
    open_bundle(signed)
    with pytest.raises(BundleError, match=r"not those that were signed \(extra\.json, manifest\.json\)"):
        verify(signed, keys / "own.pub")


def test_a_file_removed_and_no_longer_listed(signed, keys):
    (signed / "tokenizer_config.json").unlink()
    rewrite_manifest(signed)
    open_bundle(signed)
    with pytest.raises(BundleError, match=r"not those that were signed \(tokenizer_config\.json, manifest\.json\)"):
        verify(signed, keys / "own.pub")


def test_files_that_a_signature_asks_to_ignore_are_not_ignored(bundle_copy, keys):
    sign_as_a_stranger(bundle_copy, keys / "own.pem", ["onnx"])
    with pytest.raises(BundleError, match=r"not those that were signed \(onnx/model\.onnx, onnx/model_int8\.onnx\)"):
        verify(bundle_copy, keys / "own.pub")


def test_a_signature_of_another_folder_with_the_right_key(bundle_copy, keys, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(bundle_copy / "README.md", other)
    sign_as_a_stranger(other, keys / "own.pem", [])
    shutil.move(other / SIGNATURE, bundle_copy)
    with pytest.raises(BundleError, match=r"not those that were signed \(config\.json, manifest\.json"):
        verify(bundle_copy, keys / "own.pub")


def test_a_signature_of_another_key(signed, keys, capsys):
    with pytest.raises(BundleError, match=r"its model\.sig was not made with the private half of .*other\.pub"):
        verify(signed, keys / "other.pub")
    # The name of the key that it carries is only a hint: without it, it is wrong as well, and nothing is printed.
    values = json.loads((signed / SIGNATURE).read_bytes())
    del values["verificationMaterial"]["publicKey"]["hint"]
    (signed / SIGNATURE).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(BundleError, match=r"was not made with the private half of .*other\.pub"):
        verify(signed, keys / "other.pub")
    verify(signed, keys / "own.pub")
    assert capsys.readouterr().out == ""


def test_a_payload_that_was_changed_behind_the_signature(signed, keys):
    changed = (signed / "README.md").read_bytes() + b"!"
    old = describe_file(signed / "README.md").sha256
    (signed / "README.md").write_bytes(changed)
    values = json.loads((signed / SIGNATURE).read_bytes())
    payload = base64.b64decode(values["dsseEnvelope"]["payload"])
    assert old.encode() in payload
    forged = payload.replace(old.encode(), describe_file(signed / "README.md").sha256.encode())
    values["dsseEnvelope"]["payload"] = base64.b64encode(forged).decode()
    (signed / SIGNATURE).write_text(json.dumps(values), encoding="utf-8")
    rewrite_manifest(signed)
    with pytest.raises(BundleError, match="was not made with the private half"):
        verify(signed, keys / "own.pub")


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"{}", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"verificationMaterial": {"publicKey": 1}}'],
    ids=["empty", "null", "object", "list", "bytes", "deep", "other"],
)
def test_whatever_else_is_called_a_signature_is_refused(signed, keys, content):
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(BundleError, match=r"its model\.sig is damaged, or not a signature with a key"):
        verify(signed, keys / "own.pub")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_signature_that_is_cut_is_refused(signed, keys, keep):
    whole = (signed / SIGNATURE).read_bytes()
    (signed / SIGNATURE).write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(BundleError, match="damaged, or not a signature"):
        verify(signed, keys / "own.pub")


def test_a_signature_that_is_too_large_or_no_file_is_not_read(signed, keys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(signature, "SIGNATURE_MAX_BYTES", 100)
        with pytest.raises(BundleError, match="a signature has at most 100 bytes"):
            verify(signed, keys / "own.pub")
    (signed / SIGNATURE).unlink()
    os.mkfifo(signed / SIGNATURE)  # reading it would wait for ever
    with pytest.raises(BundleError, match="it is not signed"):
        verify(signed, keys / "own.pub")


def test_no_session_is_made_of_a_bundle_that_is_refused(signed, keys, monkeypatch):
    def create_session(*_, **__):
        raise AssertionError("a session was made")

    monkeypatch.setattr(opening, "create_session", create_session)
    with pytest.raises(AssertionError, match="a session was made"):
        load(signed, device="cpu", public_key=keys / "own.pub")
    with pytest.raises(BundleError):
        load(signed, device="cpu", public_key=keys / "other.pub")


# Keys, and where nothing can be written


@pytest.mark.parametrize(
    "name", ["own.pub", "rsa.pem", "ed25519.pem", "bitcoin.pem", "words.pem", "bytes.pem", "empty.pem"]
)
def test_what_is_no_private_key_is_one_sentence(bundle_copy, keys, name):
    with pytest.raises(
        InputError, match=rf"^{keys / name} is not a private key on an elliptic curve .*openssl ecparam"
    ):
        sign(bundle_copy, keys / name)
    assert not (bundle_copy / SIGNATURE).exists()


@pytest.mark.parametrize(
    "name", ["own.pem", "locked.pem", "rsa.pub", "ed25519.pub", "bitcoin.pub", "words.pub", "bytes.pub", "empty.pub"]
)
def test_what_is_no_public_key_is_one_sentence(signed, keys, name):
    with pytest.raises(InputError, match=rf"^{keys / name} is not a public key on an elliptic curve .*openssl ec -in"):
        verify(signed, keys / name)


def test_a_key_with_a_password_says_how_to_take_it_off(bundle_copy, keys):
    with pytest.raises(InputError, match=r"locked\.pem is protected by a password, which is not supported; take the"):
        sign(bundle_copy, keys / "locked.pem")


@pytest.mark.parametrize(
    ("name", "said"), [("none", "no such key: .*none"), ("folder", "cannot read the key .*folder")]
)
def test_a_key_that_cannot_be_read(signed, keys, name, said):
    with pytest.raises(InputError, match=said):
        sign(signed, keys / f"{name}.pem")
    with pytest.raises(InputError, match=said):
        verify(signed, keys / f"{name}.pub")


def test_where_nothing_can_be_written(bundle_copy, keys, monkeypatch):
    (bundle_copy / SIGNATURE).mkdir()
    with pytest.raises(InputError, match=r"cannot write .*model\.sig: Is a directory"):
        sign(bundle_copy, keys / "own.pem")
    (bundle_copy / SIGNATURE).rmdir()

    def replace(self, target):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match=r"cannot write .*model\.sig: Permission denied"):
        sign(bundle_copy, keys / "own.pem")
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


def test_only_a_whole_bundle_is_signed(bundle_copy, keys, tmp_path):
    with pytest.raises(InputError, match="no such bundle"):
        sign(tmp_path / "nowhere", keys / "own.pem")
    (bundle_copy / "README.md").write_text("damaged", encoding="utf-8")
    with pytest.raises(BundleError, match=r"README\.md is damaged"):
        sign(bundle_copy, keys / "own.pem")
    assert not (bundle_copy / SIGNATURE).exists()


# The command


@pytest.fixture
def burnish(tmp_path, monkeypatch):
    """Return a function that calls the command in this process: its status, output and messages."""
    monkeypatch.chdir(tmp_path)
    rows = '{"text": "great film", "label": "positive"}\n{"text": "dull", "label": "negative"}\n'
    (tmp_path / "rows.jsonl").write_text(rows * 4, encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(main, [str(item) for item in arguments])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_opens_a_bundle_can_require_a_signature(burnish, signed, keys, verb):
    require = [verb, signed, *VERBS[verb], "--require-signature"]
    done = burnish(*require, keys / "own.pub")
    assert done.exit_code == 0, done.stderr
    done = burnish(*require, keys / "other.pub")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "was not made with the private half" in done.stderr
    (signed / SIGNATURE).unlink()
    done = burnish(*require, keys / "own.pub")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "it is not signed" in done.stderr
    done = burnish(*require, keys / "none.pub")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("burnish: no such key")
    assert done.stderr.count("\n") == 1


def test_a_checkpoint_cannot_be_signed(burnish, tmp_path, keys):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}", encoding="utf-8")
    done = burnish("evaluate", "checkpoint", "--data", "rows.jsonl", "--require-signature", keys / "own.pub")
    assert done.exit_code == 5
    assert "checkpoint is refused: it is a checkpoint, and only a bundle can be signed" in done.stderr


def test_export_reads_the_key_before_it_works(tmp_path, keys):
    settings = {"checkpoint": str(tmp_path / "none"), "out": tmp_path / "out"}
    assert ExportConfig(**settings, sign_key=keys / "own.pem").sign_key == keys / "own.pem"
    with pytest.raises(InputError, match=r"words\.pem is not a private key"):
        ExportConfig(**settings, sign_key=keys / "words.pem")
    arguments = [settings["checkpoint"], "--out", str(tmp_path / "out"), "--sign-key", str(keys / "none.pem")]
    done = CliRunner().invoke(command_export, arguments)
    assert done.exit_code == 1
    assert f"no such key: {keys / 'none.pem'}" in done.stderr


def test_answers_of_a_signed_bundle_are_those_of_the_bundle(signed, keys, tiny_model):
    model = load(signed, variant="fp32", device="cpu", threads=1, public_key=keys / "own.pub")
    np.testing.assert_array_equal(model.logits(["great film", "dull"]), tiny_model.logits(["great film", "dull"]))


def test_export_signs_what_it_made(make_bundle, tiny_checkpoint, keys):
    folder = make_bundle(tiny_checkpoint, precision="fp32", sign_key=keys / "own.pem")
    assert verify(folder, keys / "own.pub").manifest.labels
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    for path in folder.rglob("*"):
        assert path.is_dir() or str(keys).encode() not in path.read_bytes(), f"{path.name} names the key's place"
