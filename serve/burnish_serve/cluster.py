"""Files answered by several workers: the runner handed to Ray Data's ``map_batches``, one load a worker.

The file is read in parts, each by the worker that answers it, so it has to stand where all workers can read it. The
answers come back in the file's order, as JSON: a date of a Parquet file comes back as text. Ray finds the machines,
gives each worker its processors, and asks again where a worker is lost.

>>> for answered in answer("rows.jsonl", "bundle/", loading={}, asking={}, workers=2): ...  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve.answering import Answered, Answering, bounds_of, lines_of, within
from burnish_serve.errors import InputError, MissingExtraError
from burnish_serve.opening import load
from burnish_serve.runner import WINDOW, windows

# More than one a worker, so that none has to wait long for the last.
PARTS_A_WORKER = 4


class Worker:
    """Answers parts of a file; Ray makes one for each process.

    Args:
        bundle: the bundle.
        source: the file.
        loading: arguments of `burnish_serve.load`; its threads are the processors that Ray gives.
        asking: column, options and keep_errors of `Answering`.
    """

    def __init__(self, bundle: str, source: str, loading: Mapping[str, Any], asking: Mapping[str, Any]) -> None:
        import ray

        given = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        model = load(bundle, **{**loading, "threads": max(1, int(given))})
        self._answering = Answering(model, source, **asking)
        self._source = source
        self._keep_errors = bool(asking["keep_errors"])

    def __call__(self, parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield each window of the parts as a row; or what is wrong, which ends the run."""
        for first, last in zip(parts["first"].tolist(), parts["last"].tolist(), strict=True):
            lines = within(lines_of(self._source, keep_errors=self._keep_errors), (first, last))
            try:
                for window in windows(lines, WINDOW):
                    yield _row({"answered": self._answering(window)._asdict()})
            except InputError as error:
                yield _row({"error": str(error)})
                return


def _row(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"json": np.array([json.dumps(value, default=str)], dtype=object)}


def answer(
    source: str,
    bundle: str,
    *,
    loading: Mapping[str, Any],
    asking: Mapping[str, Any],
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
) -> Iterator[Answered]:
    """Yield the windows of a file with their answers, in the file's order.

    Args:
        source: the file, under a path that all workers can read.
        bundle: the bundle, likewise.
        loading: arguments of `burnish_serve.load`; ``threads`` are the processors of each worker.
        asking: column, options and keep_errors of `Answering`.
        workers: how many; None for as many as the cluster has processors for.
        shard: one of n parts of the file, from 1.

    Raises:
        InputError: the file is missing, or a row cannot be asked.
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("--engine ray", "ray") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    threads = loading.get("threads") or 1
    workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    first, last = bounds_of(source, shard or (1, 1))
    edges = np.linspace(first, last, workers * PARTS_A_WORKER + 1).astype(int).tolist()
    parts = [{"first": start, "last": end} for start, end in itertools.pairwise(edges) if start < end]
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    path, folder = str(Path(source).resolve()), str(Path(bundle).resolve())
    found = ray.data.from_items(parts, override_num_blocks=max(1, len(parts))).map_batches(
        Worker,
        fn_constructor_args=(folder, path, dict(loading), dict(asking)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, max(1, len(parts)))),
        num_cpus=threads,
        num_gpus=1 if loading.get("device") == "cuda" else 0,
    )
    for row in found.iter_rows():
        value = json.loads(row["json"])
        if "error" in value:
            raise InputError(value["error"])
        yield Answered(**value["answered"])
