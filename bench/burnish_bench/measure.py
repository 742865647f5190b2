"""The measurements of a bundle, each with all its variants in turns.

Throughput is a whole call on all rows, with tokenization and decoding. Latency is the same with one row a call, one
call after the other. The sweep of batch sizes and lengths is the session alone, on random tokens without padding: what
the model costs apart from everything around it. Fresh processes tell what a start costs, and arrivals at random how
long texts wait under a load.

>>> found = measure_variants(models, rows, BenchConfig(), baseline="fp32", reference=call)  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from burnish_bench.arrivals import AtRate, at_rate
from burnish_bench.cold import Cold, ColdStart
from burnish_bench.config import BenchConfig
from burnish_bench.peers import Peer
from burnish_bench.workload import random_batch
from burnish_serve.runner import Runner, model_inputs
from burnish_serve.tasks import Encoded, Row
from burnish_serve.timing import Estimate, Latency, Samples, Throughput, interleave, latency, speedup, throughput

REFERENCE = ""
"""Among the variants' names, and none of them."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One batch size at one length, through the session alone."""

    batch_size: int
    """Rows."""
    length: int
    """Tokens of each row."""
    median_ms: float
    """Median over rounds of the milliseconds of one batch."""
    texts_per_second: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found about one variant."""

    throughput: Throughput
    speedup: Estimate
    """Throughput over the baseline's, round by round."""
    per_reference: Estimate
    """Whole calls in the time of one call of the reference, round by round."""
    behind: Estimate
    """Throughput of the leader over its own, round by round."""
    latency: Latency
    at_rates: tuple[AtRate, ...]
    cold: Cold | None
    sweep: tuple[Cell, ...]


def num_turns(config: BenchConfig, *, variants: int, cells: int, peers: int = 0) -> int:
    """Return how often `measure_variants` calls ``tick``."""
    own = 2 + cells + len(config.rates) + config.cold_start
    return (variants * own + 2 * peers + 1) * config.rounds


def measure_variants(
    models: Mapping[str, Runner],
    rows: Sequence[Row],
    config: BenchConfig,
    *,
    baseline: str,
    leader: str,
    reference: Callable[[], object],
    peers: Mapping[str, Peer] | None = None,
    starts: Mapping[str, ColdStart] | None = None,
    cells: Sequence[tuple[int, int]] = (),
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Measured]:
    """Return what was found about each variant, by name.

    Args:
        models: a runner for each variant; all are held in memory at once.
        rows: what to answer.
        config: rounds and seconds.
        baseline: the variant that the others' throughput is divided by.
        leader: the variant whose throughput is divided by the others'.
        reference: fixed work, timed in turns with the throughput of all.
        peers: others that answer the same rows, each in its own process.
        starts: what starts a fresh process with a variant, by name.
        cells: batch sizes with their lengths in tokens.
        tick: called after each turn, for a progress bar.
    """
    timed = partial(interleave, rounds=config.rounds, tick=tick)
    others = dict(peers or {})
    calls: dict[str, Callable[[], object]] = {name: partial(model, rows) for name, model in models.items()}
    whole = timed({**calls, **others, REFERENCE: reference}, seconds=config.seconds)
    alone = {name: one_by_one(model, [[row] for row in rows]) for name, model in models.items()}
    theirs = {name: one_by_one(other.alone, range(len(rows))) for name, other in others.items()}
    single = timed({**alone, **theirs}, seconds=config.seconds)
    encoded = next(iter(models.values())).encode(rows)
    sweeps: dict[str, list[Cell]] = {name: [] for name in (*models, *others)}
    for batch_size, length in cells:
        batch = random_batch(encoded, batch_size, length)
        calls = {name: _session_run(model, batch) for name, model in models.items()}
        for name, samples in timed(calls, seconds=config.seconds / len(cells)).items():
            sweeps[name].append(_cell(batch_size, length, samples))
    waits = [
        at_rate(models, rows, rate, rounds=config.rounds, seconds=config.seconds, tick=tick) for rate in config.rates
    ]
    timed(starts or {}, seconds=0)
    return {
        name: Measured(
            throughput=throughput(whole[name], len(rows)),
            speedup=speedup(whole[name], whole[baseline]),
            per_reference=speedup(whole[name], whole[REFERENCE]),
            behind=speedup(whole[leader], whole[name]),
            latency=latency(single[name]),
            at_rates=tuple(found[name] for found in waits if name in found),
            cold=starts[name].result() if starts and name in starts else None,
            sweep=tuple(sweeps[name]),
        )
        for name in (*models, *others)
    }


def one_by_one(answer: Callable[[Any], object], rows: Sequence[Any]) -> Callable[[], object]:
    """Return a call that answers the next row, in a circle."""
    following = itertools.cycle(rows)
    return lambda: answer(next(following))


def _session_run(model: Runner, batch: Sequence[Encoded]) -> Callable[[], Sequence[object]]:
    """Return a call of the session alone on a batch that is ready."""
    arrays = model_inputs(batch, model.inputs, model.pad_token_id)
    return lambda: model.session.run(model.task.outputs, arrays)


def _cell(batch_size: int, length: int, samples: Samples) -> Cell:
    median = float(np.median(np.median(samples, axis=1)))
    return Cell(batch_size=batch_size, length=length, median_ms=median * 1000, texts_per_second=batch_size / median)
