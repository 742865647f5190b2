"""``burnish bench`` and ``burnish tune``: the flags, the progress bar, and what is printed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from burnish_bench.config import BenchConfig, TuneConfig
from burnish_bench.page import page
from burnish_bench.report import bench as run
from burnish_bench.report import write_json
from burnish_bench.table import render
from burnish_bench.tune import render as render_tuning
from burnish_bench.tune import tune as find
from burnish_serve.cli.options import check_device
from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import configure, flags
from burnish_serve.errors import InputError, PerformanceGateError
from burnish_serve.writing import write_text

Config = TypeVar("Config", bound=TuneConfig)


@click.command("bench", short_help="measure latency and throughput of a bundle")
@click.argument("bundle")
@click.option(
    "--variant", "variants", multiple=True, help="variant of the bundle; may be given several times  [default: all]"
)
@flags(BenchConfig)
@verb(extra="bench")
def bench(bundle: str, variants: tuple[str, ...], **given: Any) -> Report:
    """Measure how fast each variant of a bundle answers on this machine, all in turns in one run.

    Prints a table, then the same figures as one line of JSON. Machines are noisy: figures can be compared within one
    run and not across runs.
    """
    config = _configured(BenchConfig, given)
    with _bar("bench") as start:
        data = run(bundle, config, variants=variants, start=start)
    if config.out:
        write_json(config.out, data)
    if config.html:
        write_text(config.html, page(data))
    status = 0 if data.get("gate", {}).get("passed", True) else PerformanceGateError.exit_status
    return Report(data, f"{render(data)}\n{json.dumps(data, ensure_ascii=False)}", status)


@click.command("tune", short_help="keep the settings that are the fastest on this machine")
@click.argument("bundle")
@click.option("--variant", help="variant of the bundle  [default: the one that predict takes]")
@flags(TuneConfig)
@verb(extra="bench")
def tune(bundle: str, variant: str | None, **given: Any) -> Report:
    """Measure which settings of the runner are the fastest for a bundle on this machine, and keep them.

    Whoever opens the bundle on this machine from then on takes them. Answers stay what they are, as with other batches.
    """
    config = _configured(TuneConfig, given)
    with _bar("tune") as start:
        data = find(bundle, config, variant=variant, start=start)
    return Report(data, render_tuning(data))


def _configured(kind: type[Config], given: dict[str, Any]) -> Config:
    """Return the config that the flags give."""
    try:
        config = configure(kind, {}, **given)
    except InputError as error:  # there is no recipe: what is wrong stands on the command line
        raise click.UsageError(str(error)) from error
    check_device(config.device, config.provider)
    return config


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Callable[[int], Callable[[], object]]]:
    """Show a progress bar on a terminal; what is given is told the number of turns, and returns what counts one."""
    with click.progressbar(length=0, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def start(turns: int) -> Callable[[], object]:
            bar.length = turns
            return lambda: bar.update(1)

        yield start
