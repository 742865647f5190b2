"""The bundle: one folder with graphs, tokenizer and a manifest that says and proves what they are.

`Manifest` is the contract between export, its only writer, and everyone who reads. Nothing is believed before it is
checked: `open_bundle` compares the manifest with its own hash, has `burnish_serve.integrity` check every file against
it, and sees that what it says fits together.

>>> bundle = open_bundle("bundle/")  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve.errors import BundleError, InputError
from burnish_serve.integrity import GRAPH, MANIFEST, File, check_files, check_link, describe_file
from burnish_serve.tasks import TASKS, Decoding, Outputs

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Bundle",
    "File",
    "Manifest",
    "Variant",
    "describe_file",
    "golden_values",
    "is_bundle",
    "open_bundle",
]

FORMAT = 1
MANIFEST_MAX_BYTES = 64 * 2**20
# Numbers of a golden row that a manifest keeps: enough to see a difference anywhere, little enough to read.
GOLDEN_VALUES = 512


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One graph of the bundle."""

    file: str
    """Path inside the bundle; its size and hash stand in `Manifest.files`."""
    precision: str
    """``fp32``, ``int8`` (static), ``int8-dynamic`` …"""
    batch_invariant: bool
    """Whether an answer is the same alone and beside any neighbours."""
    providers: tuple[str, ...]
    """Execution providers that it was made for."""
    right_with: tuple[str, ...]
    """Processor features of which one is needed for right answers; empty where any processor gives them."""
    fast_with: tuple[str, ...]
    """Processor features of which one makes it fast; empty where it needs none."""
    latency_ms: float | None
    """Milliseconds for one text alone on the machine that made it; None where that was not measured."""
    texts_per_second: float | None
    """In batches, as above."""
    max_difference: float
    """Largest difference of a logit from PyTorch's, seen in the proof."""
    label_changes: int
    """Rows of the evaluation whose label differs from the float32 reference's."""
    score: float | None
    """The task's metric on the evaluation rows; None where there were none."""
    golden_outputs: tuple[tuple[float, ...], ...]
    """Outputs of `Manifest.golden_rows`: all numbers of each row, evenly thinned to `GOLDEN_VALUES`."""
    golden_tolerance: float
    """How far a replayed logit may be from its golden one on another processor."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a runner needs to know, and what was proven about it."""

    task: str
    labels: tuple[str, ...]
    max_length: int
    """Tokens that the model reads at the most, special ones included."""
    pad_token_id: int
    inputs: tuple[str, ...]
    """Names of the graph's inputs: int64 ``[batch, length]`` each."""
    outputs: tuple[str, ...]
    variants: dict[str, Variant]
    defaults: dict[str, tuple[str, ...]]
    """The variants to take by execution provider, best first: the first that fits the processor is taken."""
    files: dict[str, File]
    """Every file of the bundle but the manifest, by path."""
    golden_rows: tuple[dict[str, Any], ...]
    """Inputs that `burnish verify` replays."""
    reference_score: float | None
    """PyTorch's score on the same rows as the variants'."""
    evaluation_rows: int
    provenance: dict[str, Any]
    """Base model, data hashes, versions, seed, what the export decided and why."""
    warnings: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    """What turns the logits into answers, besides the task: thresholds, temperature, what is rejected."""
    stride: int = 0
    """Tokens that neighbouring windows of a long text share."""
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """Return the canonical form, with its own hash in the key ``sha256``."""
        values = dataclasses.asdict(self)
        return _canonical({**values, "sha256": hashlib.sha256(_canonical(values)).hexdigest()})

    @classmethod
    def from_bytes(cls, data: bytes, name: str = MANIFEST) -> Manifest:
        """Return the manifest, checked against its own hash and for the type of every key.

        Raises:
            BundleError: it is damaged, of a newer format, or not in canonical form.
        """
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{name} is damaged: it is not JSON") from error
        if not isinstance(values, dict) or type(values.get("format")) is not int or values["format"] < 1:
            raise BundleError(f"{name} is not a bundle's manifest: it names no format")
        if values["format"] > FORMAT:
            raise BundleError(
                f"{name} has format {values['format']}, and this burnish reads up to {FORMAT}: pip install -U burnish"
            )
        stated = values.pop("sha256", None)
        try:
            own = hashlib.sha256(_canonical(values)).hexdigest()
            canonical = _canonical({**values, "sha256": stated})
        except (ValueError, RecursionError) as error:  # half a surrogate pair; lists in lists without end
            raise BundleError(f"{name} is damaged: it is not canonical JSON") from error
        if stated != own or data != canonical:
            raise BundleError(f"{name} is damaged: it does not match its own hash")
        manifest: Manifest = _typed(values, cls, name)
        return manifest


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was found whole."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.folder / name


def golden_values(outputs: Outputs) -> tuple[tuple[float, ...], ...]:
    """Return what a manifest keeps of the outputs of its golden rows, see `Variant.golden_outputs`."""
    kept = []
    for row in outputs:
        parts = row if isinstance(row, list) else [row]
        flat = np.concatenate([part.ravel() for part in parts])
        kept.append(tuple(map(float, flat[:: -(-len(flat) // GOLDEN_VALUES) or 1])))
    return tuple(kept)


def is_bundle(folder: str | Path) -> bool:
    """Return whether a folder says that it is a bundle; it may still be damaged."""
    return (Path(folder) / MANIFEST).is_file()


def open_bundle(folder: str | Path) -> Bundle:
    """Return the bundle in a folder once every file was checked.

    Raises:
        InputError: there is no such folder.
        BundleError: it is not a bundle, is damaged, or holds what no bundle may hold.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such bundle: {folder}")
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST} (an export that was interrupted leaves none)"
        )
    check_link(folder, MANIFEST)
    if path.stat().st_size > MANIFEST_MAX_BYTES:
        raise BundleError(f"{path} is refused: a manifest has at most {MANIFEST_MAX_BYTES} bytes")
    manifest = Manifest.from_bytes(path.read_bytes(), str(path))
    check_files(folder, manifest.files)
    if problem := _contradiction(manifest):
        raise BundleError(f"{path} is refused: {problem}")
    return Bundle(folder=folder, manifest=manifest)


def _contradiction(manifest: Manifest) -> str | None:
    """Return what in a manifest does not fit together, or None."""
    if manifest.task not in TASKS:
        return f"its task {manifest.task!r} is unknown; the tasks are: {', '.join(TASKS)} (upgrade burnish?)"
    if not manifest.variants:
        return "it has no variant"
    if "tokenizer.json" not in manifest.files:
        return "tokenizer.json is not among its files"
    for provider, names in manifest.defaults.items():
        for name in names:
            if name not in manifest.variants:
                return f"its default {name!r} for {provider} is not among its variants"
    for name, variant in manifest.variants.items():
        if variant.file not in manifest.files:
            return f"its variant {variant.file!r} is not among its files"
        if not variant.file.endswith(GRAPH):
            return f"its variant {variant.file!r} is not a file in {GRAPH}"
        golden = variant.golden_outputs
        widths = {len(manifest.labels)} if not TASKS[manifest.task].per_token else {len(row) for row in golden}
        if len(golden) != len(manifest.golden_rows) or {len(row) for row in golden} - widths:
            labels = f" of {len(manifest.labels)} labels" if widths == {len(manifest.labels)} else ""
            return f"the golden outputs of {name} are not one row{labels} for each golden row"
    return None


def _canonical(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Return a JSON value in the type of a dataclass field, checked all the way down."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(hints):
            difference = sorted(set(value) ^ set(hints)) if isinstance(value, dict) else [type(value).__name__]
            raise BundleError(
                f"{where} is refused: its keys are not those of format {FORMAT} ({', '.join(difference)})"
            )
        return typing.cast(Any, kind)(**{key: _typed(value[key], hints[key], f"{where}: {key}") for key in hints})
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _typed(value, arguments[0], where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(item, arguments[0], where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _typed(item, arguments[1], f"{where}[{key!r}]") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    if origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise BundleError(f"{where} is refused: it has the wrong type ({type(value).__name__})")
