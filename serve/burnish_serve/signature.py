"""Signatures: who made a bundle, where its hashes only say that it is whole.

Whoever can change a file of a bundle can change its hash as well, but cannot sign. A signature is a file ``model.sig``
in the bundle, of the package model-signing (https://github.com/sigstore/model-transparency): an in-toto statement with
the hash of every file, signed with a key of your own on an elliptic curve. No service is asked, and nothing is sent.
All files of a bundle must be signed: a signature that asks for some of them to be ignored is refused.

>>> sign("bundle/", "key.pem")  # doctest: +SKIP
>>> verify("bundle/", "key.pub").manifest.task  # doctest: +SKIP
'text-classification'
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from burnish_serve.bundle import MANIFEST, Bundle, open_bundle
from burnish_serve.errors import BundleError, InputError, MissingExtraError

SIGNATURE = "model.sig"
SIGNATURE_MAX_BYTES = 2**24
CURVES = "prime256v1, secp384r1 or secp521r1"
# Written into a signature, for model-signing's own verifier: what others leave in a folder.
LEFT_BY_OTHERS = (".cache", SIGNATURE)
# What the package says where files differ: one that changed, or several that are too many or missing.
DIFFERENT = re.compile(r"Hash mismatch for '(.*?)': Expected|files (?:found )?in model '.*?': (.*?)[\"'](?:, |])")


def sign(folder: str | Path, private_key: str | Path) -> Path:
    """Sign a bundle, write its ``model.sig`` and return the path of that file; an older one is replaced.

    Args:
        folder: the bundle; it is checked first.
        private_key: a PEM file without a password, with a key on one of `CURVES`.

    Raises:
        InputError: the key cannot be used, there is no such folder, or it cannot be written to.
        BundleError: it is no bundle, or damaged.
        MissingExtraError: the extra ``sign`` is not installed.
    """
    config = _signing_config(Path(private_key))
    bundle = open_bundle(folder)
    path = bundle.path(SIGNATURE)
    beside = bundle.folder.resolve()  # a file inside that is not listed would make the bundle a refused one
    partial = beside.with_name(f"{beside.name}.{SIGNATURE}.partial")
    try:
        config.set_hashing_config(_TheFiles(bundle)).sign(bundle.folder, partial)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def verify(folder: str | Path, public_key: str | Path) -> Bundle:
    """Return the bundle in a folder once every file was checked, and the signature over all of them.

    Args:
        folder: the bundle.
        public_key: a PEM file with the public half of the key that must have signed.

    Raises:
        InputError: the key cannot be used, or there is no such folder.
        BundleError: the bundle is damaged, not signed, signed with another key, or not what was signed.
        MissingExtraError: the extra ``sign`` is not installed.
    """
    config = _verifying_config(Path(public_key))
    bundle = open_bundle(folder)
    path = bundle.path(SIGNATURE)
    if not path.is_file():
        raise BundleError(f"{folder} is refused: it is not signed (it has no {SIGNATURE}), and a signature is required")
    if path.stat().st_size > SIGNATURE_MAX_BYTES:
        raise BundleError(f"{path} is refused: a signature has at most {SIGNATURE_MAX_BYTES} bytes")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the package prints a warning about old signatures
            config.set_hashing_config(_TheFiles(bundle)).verify(bundle.folder, path)
    except Exception as error:  # a file of a stranger: whatever it makes the package raise, it is refused
        raise BundleError(_refusal(bundle.folder, Path(public_key), error)) from error
    return bundle


def open_signed(folder: str | Path, public_key: str | Path | None) -> Bundle:
    """Return the bundle in a folder; where a key is given, only once its signature was checked, see `verify`."""
    return open_bundle(folder) if public_key is None else verify(folder, public_key)


def check_private_key(path: str | Path) -> None:
    """Raise what `sign` would raise about a key, without signing."""
    _signing_config(Path(path))


class _TheFiles:
    """The files of a bundle, as model-signing hashes them: those of the manifest and itself, and no others.

    It stands in for the package's hashing config. That one hashes what lies in the folder, but for what is to be
    ignored; what is to be ignored it also takes from the signature.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._names = (*bundle.manifest.files, MANIFEST)

    def hash(self, model_path: str | Path, *, files_to_hash: Iterable[Path] | None = None) -> Any:
        """Return the package's manifest of the files; links are right here, since `open_bundle` let them pass."""
        config = _package().hashing.Config().set_ignored_paths(paths=LEFT_BY_OTHERS).set_allow_symlinks(True)
        return config.hash(model_path, files_to_hash=[Path(model_path, name) for name in self._names])

    def add_ignored_paths(self, *, model_path: str | Path, paths: Iterable[str]) -> None:
        """Pass over what a signature says should be ignored."""


def _package() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise MissingExtraError("a signature", "sign") from error
    return model_signing


def _signing_config(path: Path) -> Any:
    config = _package().signing.Config()
    return _with_key(
        lambda: config.use_elliptic_key_signer(private_key=path),
        path,
        f"is not a private key on an elliptic curve ({CURVES}) in PEM; "
        f"make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
    )


def _verifying_config(path: Path) -> Any:
    config = _package().verifying.Config()
    return _with_key(
        lambda: config.use_elliptic_key_verifier(public_key=path),
        path,
        f"is not a public key on an elliptic curve ({CURVES}) in PEM; "
        f"make it from the private one with: openssl ec -in key.pem -pubout -out key.pub",
    )


def _with_key(read: Callable[[], Any], path: Path, otherwise: str) -> Any:
    """Return what reading a key gives, or raise one sentence about the key."""
    if not path.exists():
        raise InputError(f"no such key: {path}")
    try:
        return read()
    except OSError as error:
        raise InputError(f"cannot read the key {path}: {error.strerror or error}") from error
    except TypeError as error:  # the one thing that a key of the right kind can lack
        raise InputError(
            f"the key {path} is protected by a password, which is not supported; "
            f"take the password off with: openssl ec -in {path} -out FILE"
        ) from error
    except Exception as error:  # the package raises many kinds, and an AttributeError for keys of another algorithm
        raise InputError(f"{path} {otherwise}") from error


def _refusal(folder: Path, public_key: Path, error: Exception) -> str:
    """Return one sentence about a signature that does not hold."""
    said = str(error)
    if type(error).__name__ == "InvalidSignature" or said.startswith("Key mismatch"):
        return f"{folder} is refused: its {SIGNATURE} was not made with the private half of {public_key}"
    if said.startswith("Signature mismatch"):
        names = ", ".join(one or several for one, several in DIFFERENT.findall(said.replace("\\'", "'")))
        return f"{folder} is refused: its files are not those that were signed ({names})"
    return f"{folder} is refused: its {SIGNATURE} is damaged, or not a signature with a key"
