"""Which settings of the runner are the fastest for a bundle on this machine, measured in turns.

A setting is taken over the default only where it is faster by more than noise: the whole 95 % interval of its speed, in
units of the default's, lies above 1, and its median at `WORTH` at least.

>>> tune("bundle/", TuneConfig(data="rows.jsonl"))["tuning"]  # doctest: +SKIP
{'max_batch_tokens': 1024, 'callers': True, 'spinning': True}
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from burnish_bench.config import TuneConfig
from burnish_bench.measure import one_by_one
from burnish_bench.table import columns
from burnish_bench.workload import workload_of
from burnish_serve import machine, tuning
from burnish_serve.bundle import Bundle, golden_values
from burnish_serve.errors import BurnishError
from burnish_serve.golden import largest_difference
from burnish_serve.opening import open_runner
from burnish_serve.runner import Runner
from burnish_serve.session import CPU, CUDA, OPENVINO, import_onnxruntime
from burnish_serve.signature import open_signed
from burnish_serve.tasks import Row
from burnish_serve.timing import Estimate, Samples, interleave, speedup
from burnish_serve.tuning import Tuning

WORTH = 1.02
"""A gain below it is not worth another setting than everybody's."""
# Rows that are answered with and without CUDA graphs, and the share that must say the same: float16 rounds otherwise.
ROWS_TO_AGREE, AGREEMENT = 256, 0.99
# Padded tokens of a batch, in units of the default.
SIZES = (0.5, 1, 2, 4)


def tune(
    folder: str | Path,
    config: TuneConfig,
    *,
    variant: str | None = None,
    start: Callable[[int], Callable[[], object]] = lambda turns: lambda: None,
) -> dict[str, Any]:
    """Measure, keep the fastest settings for this machine, and return all that was found, as JSON holds it.

    Args:
        folder: the bundle.
        config: rows, threads, rounds and seconds.
        variant: its name; the one that `burnish_serve.load` takes where none is given.
        start: given the number of turns to come, returns what is called after each, for a progress bar.

    Raises:
        InputError: there is no such bundle, variant, file, column or row.
        BundleError: the bundle is damaged or refused.
        DeviceError: the device cannot be used.
        BurnishError: the settings cannot be kept.
    """
    bundle = open_signed(folder, config.require_signature)
    workload = workload_of(bundle, config)
    opened = partial(
        open_runner,
        bundle,
        device=config.device,
        provider=config.provider,
        variant=variant,
        threads=config.threads,
    )
    plain = opened(tuning=Tuning())
    other, refused = (None, None) if config.provider else _openvino(bundle, plain, opened, workload.rows)
    batches, waits = _batches(plain, opened, other), _waits(plain, opened, workload.rows)
    tick = start((len(batches) + len(waits)) * config.rounds)
    timed = partial(interleave, rounds=config.rounds, seconds=config.seconds, tick=tick)
    speeds = _against(timed({each: partial(model, workload.rows) for each, model in batches.items()}))
    alone = [[row] for row in workload.rows]
    delays = _against(timed({each: one_by_one(model, alone) for each, model in waits.items()}))
    alone_best = fastest(delays)
    kept = dataclasses.replace(fastest(speeds), spinning=alone_best.spinning, cuda_graphs=alone_best.cuda_graphs)
    provider, threads = plain.provider or CPU, config.threads or machine.num_threads()
    path = tuning.place(bundle, plain.variant, provider, threads)
    if path is None:
        raise BurnishError("there is no home folder to keep the settings in; XDG_CACHE_HOME names one for them")
    try:
        tuning.write(path, kept)
    except OSError as error:
        where = f"the settings cannot be kept in {path.parent}"
        raise BurnishError(f"{where}: {error.strerror}; XDG_CACHE_HOME names another folder") from error
    return {
        "bundle": str(folder),
        "variant": plain.variant,
        "provider": provider,
        "threads": threads,
        "rows": {"source": workload.source, "texts": len(workload.rows)},
        "rounds": config.rounds,
        "default_batch_tokens": plain.max_batch_tokens,
        "whole_calls": _told(speeds),
        "single_rows": _told(delays),
        "openvino": refused,
        "tuning": dataclasses.asdict(kept),
        "file": str(path),
    }


def fastest(found: Mapping[Tuning, Estimate]) -> Tuning:
    """Return the settings to take.

    Args:
        found: speed in units of the default's, of each; the default's own is among them.
    """
    better = {
        each: speed
        for each, speed in found.items()
        if speed.low is not None and speed.low > 1 and speed.median >= WORTH
    }
    return max(better, key=lambda each: better[each].median) if better else Tuning()


def _openvino(
    bundle: Bundle, plain: Runner, opened: Callable[..., Runner], rows: Sequence[Row]
) -> tuple[Runner | None, str | None]:
    """Return a runner of OpenVINO's that answers as the bundle promises, else None; and why one is not to be taken.

    It computes by itself, so it must give the golden rows' outputs, and where the variant promises it, the same
    outputs alone as in a batch, bit for bit.
    """
    if plain.provider != CPU or OPENVINO not in import_onnxruntime().get_available_providers():
        return None, None
    try:
        other = opened(tuning=Tuning(openvino=True))
        promised = bundle.manifest.variants[plain.variant]
        off = largest_difference(bundle, other)
    except BurnishError as error:
        return None, str(error)
    if other.provider != OPENVINO:
        return None, "it does not start"
    if not off <= promised.golden_tolerance:
        return None, f"golden rows are off by {off:.2g} where {promised.golden_tolerance:.2g} is allowed"
    if promised.batch_invariant:
        asked = other.examine(rows[:ROWS_TO_AGREE])
        alone = [golden_values(other.outputs([row]))[0] for row in asked]
        if golden_values(other.outputs(asked)) != tuple(alone):
            return None, "answers depend on the batch, and the variant promises that they do not"
    return other, None


def _batches(plain: Runner, opened: Callable[..., Runner], openvino: Runner | None) -> dict[Tuning, Runner]:
    """Return runners with other batches, the default first."""
    found = {Tuning(): plain}
    models = {Tuning(): plain}
    if plain.callers:
        models[Tuning(callers=False)] = opened(tuning=Tuning(callers=False))
    if openvino:
        models[Tuning(openvino=True)] = openvino
    for settings, model in models.items():
        for size in SIZES:
            tokens = None if size == 1 else max(1, int(plain.max_batch_tokens * size))
            found.setdefault(dataclasses.replace(settings, max_batch_tokens=tokens), _sized(model, tokens))
    return found


def _sized(model: Runner, tokens: int | None) -> Runner:
    """Return a runner on the same session with batches of another size."""
    other = copy.copy(model)
    other.max_batch_tokens = tokens or model.max_batch_tokens
    return other


def _waits(plain: Runner, opened: Callable[..., Runner], rows: Sequence[Row]) -> dict[Tuning, Runner]:
    """Return runners that wait less or in other ways, the default first."""
    found = {Tuning(): plain}
    if plain.callers:
        found[Tuning(spinning=False)] = opened(tuning=Tuning(spinning=False))
    if plain.provider == CUDA:
        recorded = opened(tuning=Tuning(cuda_graphs=True))
        if _agree(plain, recorded, rows[:ROWS_TO_AGREE]):
            found[Tuning(cuda_graphs=True)] = recorded
    return found


def _agree(plain: Runner, other: Runner, rows: Sequence[Row]) -> bool:
    """Return whether another runner runs where the plain one does, and says the same of nearly all rows."""
    try:
        answers = zip(plain(rows), other(rows), strict=True)
    except Exception:  # the runtime raises many kinds where a graph cannot be recorded
        return False
    same = [plain.task.predicted(one) == plain.task.predicted(two) for one, two in answers]
    return other.provider == plain.provider and sum(same) >= AGREEMENT * len(same)


def _against(samples: Mapping[Tuning, Samples]) -> dict[Tuning, Estimate]:
    """Return speeds in units of the default's, round by round."""
    return {each: speedup(some, samples[Tuning()]) for each, some in samples.items()}


def _told(found: Mapping[Tuning, Estimate]) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(each), "speedup": dataclasses.asdict(speed)} for each, speed in found.items()]


def render(data: Mapping[str, Any]) -> str:
    """Return what `tune` found as text for people."""
    default = data["default_batch_tokens"]
    rows = [["tokens a batch", "callers", "x default", "95 % interval"]]
    for one in data["whole_calls"]:
        callers = data["threads"] if one["callers"] and data["provider"] == CPU else 1
        how = "OpenVINO" if one["openvino"] else str(callers)
        rows.append([f"{one['max_batch_tokens'] or default:,}", how, *_speed(one["speedup"])])
    waits = [["threads that wait", "x default", "95 % interval"]]
    waits += [[_way(one), *_speed(one["speedup"])] for one in data["single_rows"]]
    kept = data["tuning"]
    said = [f"batches of {kept['max_batch_tokens'] or default:,} tokens"]
    said.append("by OpenVINO" if kept["openvino"] else "side by side" if kept["callers"] else "one after another")
    said.append(f"threads that {'spin' if kept['spinning'] else 'sleep'} while they wait")
    said += ["CUDA graphs"] if kept["cuda_graphs"] else []
    refused = [f"OpenVINO is not taken: {data['openvino']}"] if data["openvino"] else []
    return "\n\n".join(
        [
            f"whole calls on {data['rows']['texts']:,} rows of {data['rows']['source']}\n{columns(rows)}",
            f"single rows\n{columns(waits)}",
            *refused,
            f"kept for {data['variant']} with {data['threads']} threads: {', '.join(said)}\n{data['file']}",
        ]
    )


def _way(one: Mapping[str, Any]) -> str:
    """Return how a setting waits, in a word."""
    return "CUDA graphs" if one["cuda_graphs"] else "spin" if one["spinning"] else "sleep"


def _speed(found: Mapping[str, Any]) -> list[str]:
    low, high = found["low"], found["high"]
    return [f"{found['median']:.3f}", "-" if low is None else f"{low:.3f} to {high:.3f}"]
