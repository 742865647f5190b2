"""``burnish bench``: the flags, the progress bar, and what is printed."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from burnish_bench.config import BenchConfig
from burnish_bench.page import page
from burnish_bench.report import bench as run
from burnish_bench.report import write_json, write_text
from burnish_bench.table import render
from burnish_serve.cli.options import check_device
from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import configure, flags
from burnish_serve.errors import InputError, PerformanceGateError


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
    try:
        config = configure(BenchConfig, {}, **given)
    except InputError as error:  # there is no recipe: what is wrong stands on the command line
        raise click.UsageError(str(error)) from error
    check_device(config.device, config.provider)
    with click.progressbar(length=0, label="bench", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def start(turns: int) -> Any:
            bar.length = turns
            return lambda: bar.update(1)

        data = run(bundle, config, variants=variants, start=start)
    if config.out:
        write_json(config.out, data)
    if config.html:
        write_text(config.html, page(data))
    status = 0 if data.get("gate", {}).get("passed", True) else PerformanceGateError.exit_status
    return Report(data, f"{render(data)}\n{json.dumps(data, ensure_ascii=False)}", status)
