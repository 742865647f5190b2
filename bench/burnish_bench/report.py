"""A bundle measured from end to end: what ``burnish bench --json`` prints, as a dict.

The figures stand beside all that they depend on: machine, device, threads, rows, and the bundle by its manifest's hash.

>>> bench("bundle/", BenchConfig(sweep=False))["variants"]["int8"]["latency"]["p50_ms"]  # doctest: +SKIP
2.1
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from burnish_bench.cold import ColdStart
from burnish_bench.config import BenchConfig
from burnish_bench.gate import ROUNDS, gate, read_saved
from burnish_bench.measure import measure_variants, num_turns
from burnish_bench.peers import NAMES, Peer, started
from burnish_bench.reference import reference
from burnish_bench.workload import Workload, workload_of
from burnish_serve import batching, machine
from burnish_serve.bundle import MANIFEST, Bundle, Manifest, describe_file
from burnish_serve.choice import choose
from burnish_serve.errors import InputError
from burnish_serve.opening import open_runner
from burnish_serve.rows import read_rows
from burnish_serve.runner import Runner
from burnish_serve.session import CPU
from burnish_serve.signature import open_signed
from burnish_serve.tasks import task_named
from burnish_serve.writing import write_text


def bench(
    folder: str | Path,
    config: BenchConfig,
    *,
    variants: Sequence[str] = (),
    start: Callable[[int], Callable[[], object]] = lambda turns: lambda: None,
) -> dict[str, Any]:
    """Return the figures of a bundle's variants with all that they depend on, as JSON holds them.

    Args:
        folder: the bundle.
        config: what to measure, on which rows, for how long.
        variants: names of variants; all of the bundle's where none are given.
        start: given the number of turns to come, returns what is called after each, for a progress bar.

    Raises:
        InputError: there is no such bundle, variant, file, column or row.
        BundleError: the bundle is damaged or refused.
        DeviceError: the device cannot be used.
    """
    for flag, path in (("--out", config.out), ("--html", config.html)):
        if path:
            _check_place(path, flag)
    saved = read_saved(config.gate) if config.gate else None
    if saved and config.rounds < ROUNDS:
        raise InputError(f"a gate needs {ROUNDS} rounds or more: set --rounds")
    bundle = open_signed(folder, config.require_signature)
    manifest, task = bundle.manifest, task_named(bundle.manifest.task)
    names = list(dict.fromkeys(variants)) or list(manifest.variants)
    if unknown := [name for name in names if name not in manifest.variants]:
        raise InputError(f"{folder} has no variant {unknown[0]!r}; it has: {', '.join(manifest.variants)}")
    workload = workload_of(bundle, config)
    models = {
        name: open_runner(bundle, device=config.device, provider=config.provider, variant=name, threads=config.threads)
        for name in names
    }
    baseline = baseline_of(manifest, names)
    cells = config.cells(manifest.max_length)
    provider, threads = models[baseline].provider or CPU, config.threads or machine.num_threads()
    leader = leader_of(manifest, names, provider)
    with _peers(bundle, config, workload, models[leader], threads) as peers:
        tick = start(num_turns(config, variants=len(models), cells=len(cells), peers=len(peers)))
        found = measure_variants(
            models,
            workload.rows,
            config,
            baseline=baseline,
            leader=leader,
            reference=reference(provider, threads),
            peers=peers,
            starts=_starts(folder, config, workload, names) if config.cold_start else None,
            cells=cells,
            tick=tick,
        )
        told = {name: _about_peer(peer, models[leader], workload) for name, peer in peers.items()}
    data = {
        **_about(bundle, config, models[baseline]),
        "rows": _about_rows(workload, models[baseline]),
        "metric": task.metric,
        "baseline": baseline,
        "variants": {
            name: {**_about_variant(manifest, name, models[name]), **_rounded(dataclasses.asdict(measured))}
            for name, measured in found.items()
            if name in models
        },
        "leader": leader,
        "peers": {name: {**about, **_rounded(dataclasses.asdict(found[name]))} for name, about in told.items()},
    }
    return {**data, "gate": _rounded(gate(saved, data, drop=config.gate_drop))} if saved else data


def baseline_of(manifest: Manifest, names: Sequence[str]) -> str:
    """Return the variant that the others are compared with: the first in float32, else the first."""
    return next((name for name in names if manifest.variants[name].precision == "fp32"), names[0])


def leader_of(manifest: Manifest, names: Sequence[str], provider: str) -> str:
    """Return the variant that the peers are compared with: the one that `load` takes, where it is measured."""
    taken, _ = choose(manifest, provider, machine.cpu_features(), None)
    return taken if taken in names else names[0]


def _starts(folder: str | Path, config: BenchConfig, workload: Workload, names: Sequence[str]) -> dict[str, ColdStart]:
    """Return what starts a fresh process with each variant."""
    settings = {"device": config.device, "provider": config.provider, "threads": config.threads}
    key = config.require_signature
    return {
        name: ColdStart(str(folder), workload.rows, variant=name, public_key=key and str(key), **settings)
        for name in names
    }


@contextlib.contextmanager
def _peers(
    bundle: Bundle, config: BenchConfig, workload: Workload, model: Runner, threads: int
) -> Iterator[dict[str, Peer]]:
    """Start the peers that are asked for; none where none are.

    Raises:
        InputError: the rows are not what peers answer, or the checkpoint is missing.
        BurnishError: one cannot be started.
    """
    if not config.compare:
        yield {}
        return
    texts = [row["text"] for row in workload.rows if isinstance(row, Mapping) and set(row) == {"text"}]
    if bundle.manifest.task != "text-classification" or len(texts) < len(workload.rows):
        raise InputError("--compare is for text-classification of single texts")
    if config.checkpoint is None:
        raise InputError("--compare needs --checkpoint, the folder that the bundle was exported from")
    calibration = [str(row["text"]) for _, row in read_rows(str(config.checkpoint / "calibration.jsonl"))]
    names = NAMES if config.peers == "all" else tuple(name.strip() for name in config.peers.split(","))
    with started(
        names,
        config.peers_python,
        texts,
        calibration,
        bundle=str(bundle.folder.resolve()),
        checkpoint=str(config.checkpoint.resolve()),
        threads=threads,
        max_length=model.encoder.max_length,
    ) as peers:
        yield peers


def _about_peer(peer: Peer, model: Runner, workload: Workload) -> dict[str, Any]:
    """Return a peer's versions, and the share of its labels that are the leader's."""
    ours = model.answers(model.encode(workload.rows), top_k=1)
    same = sum(model.task.predicted(answer) == label for answer, label in zip(ours, peer().value, strict=True))
    return {"versions": peer.versions, "agreement": round(same / len(ours), 6)}


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write figures to a file, which appears when it is whole."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _check_place(path: Path, flag: str) -> None:
    """Refuse a file that cannot be written before the measuring, not after it."""
    if not path.parent.is_dir():
        raise InputError(f"no such folder: {path.parent}")
    if path.is_dir():
        raise InputError(f"{flag} is to be a file, and {path} is a folder")


def _about(bundle: Bundle, config: BenchConfig, model: Runner) -> dict[str, Any]:
    provenance = bundle.manifest.provenance
    return {
        "bundle": str(bundle.folder),
        "manifest_sha256": describe_file(bundle.path(MANIFEST)).sha256,
        "task": bundle.manifest.task,
        "base_model": provenance.get("base_model"),
        "versions": provenance.get("versions"),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.description(),
        "provider": model.provider,
        "threads": config.threads or machine.num_threads(),
        "rounds": config.rounds,
        "seconds": config.seconds,
    }


def _about_rows(workload: Workload, model: Runner) -> dict[str, Any]:
    encoded = model.encode(workload.rows)
    lengths = [len(window.ids) for row in encoded for window in row.windows]
    return {
        "source": workload.source,
        "distinct": workload.distinct,
        "texts": len(workload.rows),
        "cut": workload.cut,
        "mean_tokens": round(sum(row.tokens for row in encoded) / len(encoded), 1),
        "max_length": model.encoder.max_length,
        "truncated": sum(row.truncated for row in encoded),
        "padding": round(batching.padding(lengths, model.max_batch_tokens, model.run_tokens), 4),
    }


def _about_variant(manifest: Manifest, name: str, model: Runner) -> dict[str, Any]:
    variant = manifest.variants[name]
    return {
        "file": variant.file,
        "precision": variant.precision,
        "size_mb": round(manifest.files[variant.file].size / 1e6, 3),
        "score": variant.score,
        "batch_invariant": variant.batch_invariant,
        "nodes": model.nodes,
    }


def _rounded(value: Any) -> Any:
    """Return measured figures with six significant digits, which is more than any of them is known to."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
