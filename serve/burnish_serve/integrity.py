"""What is checked of a bundle's files, before ONNX Runtime or a tokenizer sees a byte of them.

A bundle is data. So a file is refused that may be code, that asks for code, or that points out of the folder: each file
has a suffix out of a short list and is what its suffix says, and each graph reads nothing but files that the manifest
lists. Names come first, then places and sizes, then hashes, then contents: what is dear or risky comes after what is
not, and no pipe or device is ever opened. A file that changes between check and use is out of scope: who can write into
the folder while it is served can do so at any time.

Two exceptions, made by the Hub's cache: links into the same cached repository's ``blobs/``, and ``.git*``, ``.cache/``
and ``model.sig``, which are ignored unread.

>>> check_files(Path("bundle"), manifest.files)  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from burnish_serve.errors import BundleError
from burnish_serve.onnxfile import read_onnx

MANIFEST = "manifest.json"
GRAPH = ".onnx"
WEIGHTS = (".onnx_data", ".data")
TEXTS = (".json", ".md", ".txt", ".svg")
PICTURES = (".png",)
SUFFIXES = (GRAPH, *WEIGHTS, *TEXTS, *PICTURES)
WITHOUT_SUFFIX = ("LICENSE", "NOTICE")
MAX_BYTES = 2**36  # of a graph or its weights
MAX_TEXT_BYTES = 2**26  # of all else, which is read whole
MAX_NAME_BYTES = 255
PNG = b"\x89PNG\r\n\x1a\n"
# How files begin that hold code, or may: programs, archives (PyTorch's too), compressed files, pickles.
CODE = (b"\x7fELF", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x80\x02\x8a\x0a", b"\x80\x04\x95", b"\x80\x05\x95")
# The keys by which Hugging Face's libraries are told to run code of the repository.
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
# Operators of ONNX Runtime that run what was compiled elsewhere, or Python.
FOREIGN = {("com.microsoft", name) for name in ("ATen", "EPContext", "PythonOp", "TritonOp")}


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the bundle."""

    size: int
    """Bytes."""
    sha256: str
    """Hash of its contents, in hexadecimal."""


def describe_file(path: Path) -> File:
    """Return a file's size and hash."""
    with path.open("rb") as file:
        return File(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def check_files(folder: Path, files: Mapping[str, File]) -> None:
    """Check everything in a folder against what its manifest lists.

    Raises:
        BundleError: something is damaged, missing, not listed, or nothing that a bundle may hold.
    """
    _check_names(folder, files)
    try:
        for name in _files_in(folder):
            if name not in files and name != MANIFEST:
                raise BundleError(f"{_shown(folder / name)} is refused: the manifest does not list it")
        for name, file in files.items():
            _check_place(folder, name, file)
        for name, file in files.items():
            if describe_file(folder / name) != file:
                raise BundleError(f"{folder / name} is damaged: its contents do not match the manifest's hash")
        for name in files:
            _check_contents(folder, name, files)
    except OSError as error:
        raise BundleError(f"{_shown(error.filename or folder)} cannot be read: {error.strerror}") from error


def check_link(folder: Path, name: str) -> None:
    """Refuse a link, unless it leads into the blobs of the cached repository that the folder is a snapshot of.

    Raises:
        BundleError: it is such a link.
    """
    path = folder / name
    if not path.is_symlink():
        return
    snapshots = folder.resolve().parent
    target = Path(os.path.realpath(path))  # unlike resolve, bears links in a circle
    if snapshots.name != "snapshots" or target.parent != snapshots.parent / "blobs" or target.is_dir():
        raise BundleError(f"{_shown(path)} is refused: it is a link")


def _shown(path: str | Path) -> str:
    """Return a path for a message, which is one line that is safe to print."""
    text = f"{path}"
    return text if text.isprintable() and len(text) <= MAX_NAME_BYTES else f"{text[:MAX_NAME_BYTES]!r}"


def _check_names(folder: Path, files: Mapping[str, File]) -> None:
    """Check what the manifest says, without a look at any file."""
    refused = f"{folder / MANIFEST} is refused"
    folded = {MANIFEST: MANIFEST}
    for name, file in files.items():
        if not _is_inside(name):
            raise BundleError(f"{refused}: it lists the path {name[:80]!r}, which is not inside the bundle")
        if not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
            raise BundleError(f"{refused}: it lists the path {name[:80]!r}, which is too long or cannot be printed")
        twin = folded.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name or name == MANIFEST:
            raise BundleError(f"{refused}: it lists {name!r} and {twin!r}, which some file systems take for one file")
        path = PurePosixPath(name)
        if path.suffix not in SUFFIXES and path.name not in WITHOUT_SUFFIX:
            raise BundleError(
                f"{folder / name} is refused: it may be code; a bundle holds files in {', '.join(SUFFIXES)}, "
                f"and {' and '.join(WITHOUT_SUFFIX)}"
            )
        limit = MAX_BYTES if path.suffix in (GRAPH, *WEIGHTS) else MAX_TEXT_BYTES
        if not 0 <= file.size <= limit:
            raise BundleError(f"{refused}: it says that {name} has {file.size} bytes; it may have 0 to {limit}")


def _is_inside(name: str) -> bool:
    """Return whether a path is plain, relative and leads downwards."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and str(path) == name


def _files_in(folder: Path) -> Iterator[str]:
    def stop(error: OSError) -> None:  # what cannot be listed would be passed over otherwise
        raise error

    for parent, folders, files in os.walk(folder, onerror=stop):
        here = Path(parent)
        folders[:] = [name for name in folders if name != ".cache" and not name.startswith(".git")]
        for name in folders:
            check_link(folder, (here / name).relative_to(folder).as_posix())
        for name in files:
            if not name.startswith(".git") and not (name == "model.sig" and here == folder):
                yield (here / name).relative_to(folder).as_posix()


def _check_place(folder: Path, name: str, file: File) -> None:
    """Check that a file is there, is one, and has its size, without opening it."""
    path, parts = folder / name, PurePosixPath(name)
    for step in (parts, *parts.parents[:-1]):
        check_link(folder, str(step))
    if not path.exists() or path.is_dir():
        raise BundleError(f"{folder} is damaged: {name} is missing")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is refused: it is a pipe, a socket or a device")
    if status.st_size != file.size:
        raise BundleError(f"{path} is damaged: it has {status.st_size} bytes, not the {file.size} of the manifest")


def _check_contents(folder: Path, name: str, files: Mapping[str, File]) -> None:
    """Check that a file is what its suffix says."""
    path, suffix = folder / name, PurePosixPath(name).suffix
    if suffix == GRAPH:
        _check_graph(path, name, files)
    elif suffix in WEIGHTS or suffix in PICTURES:
        with path.open("rb") as file:
            start = file.read(8)
        if start.startswith(CODE) or (suffix in PICTURES and start != PNG):
            raise BundleError(f"{path} is refused: it begins like another kind of file than {suffix}")
    else:
        _check_text(path, suffix)


def _check_text(path: Path, suffix: str) -> None:
    """Check that a file is text, and one in JSON an object that names no code."""
    try:
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text) if suffix == ".json" else {}
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not {'JSON' if suffix == '.json' else 'a text'} in UTF-8") from error
    if "\0" in text or not isinstance(values, dict):
        raise BundleError(f"{path} is not {'a JSON object' if suffix == '.json' else 'a text'}")
    for key in CODE_KEYS:
        if key in values:
            raise BundleError(f"{path} is refused: its key {key!r} asks for code, and a bundle is data; remove it")


def _check_graph(path: Path, name: str, files: Mapping[str, File]) -> None:
    """Check that a graph reads no file but those listed, no byte beyond them, and has no operator that needs code."""
    contents = read_onnx(path)
    for tensor in contents.external:
        target = f"{PurePosixPath(name).parent / tensor.location}"
        where = f"{path} is refused: the data of its tensor {tensor.tensor!r} lies in {tensor.location[:80]!r}, which"
        if not _is_inside(tensor.location) or target not in files:
            raise BundleError(f"{where} is not a file of the bundle that its manifest lists")
        end = tensor.offset + tensor.length
        if end > files[target].size:
            raise BundleError(f"{where} has {files[target].size} bytes, not {end}")
    for domain, operator in sorted(contents.operators):
        if domain not in DOMAINS or (domain, operator) in FOREIGN:
            raise BundleError(
                f"{path} is refused: its operator {operator[:80]!r} of the domain {domain[:80]!r} needs code, "
                "and a bundle is data"
            )
