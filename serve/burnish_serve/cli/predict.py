"""``burnish predict``: rows of a file, standard input or the command line in, the same rows with their answers out."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from burnish_serve import machine
from burnish_serve.cli.options import (
    device_option,
    on_long_option,
    provider_option,
    signature_option,
    task_options,
    text_column_option,
    threads_option,
    variant_option,
)
from burnish_serve.cli.verb import Report, verb
from burnish_serve.errors import InputError
from burnish_serve.opening import load
from burnish_serve.rows import RowWriter, count_rows, read_rows
from burnish_serve.runner import WINDOW, Runner, windows


@click.command("predict", short_help="answer the rows of a file, or texts")
@click.argument("bundle")
@click.argument("source", required=False, metavar="[INPUT|-]")
@click.option("--text", "texts", multiple=True, help="a text to answer; may be given several times")
@click.option("--out", help="file for the answers: .jsonl .csv .tsv .parquet; standard output where none is given")
@task_options
@on_long_option
@text_column_option
@variant_option
@signature_option
@device_option
@provider_option
@threads_option
@verb()
def command(
    bundle: str,
    source: str | None,
    texts: tuple[str, ...],
    out: str | None,
    options: dict[str, Any],
    on_long: str | None,
    text_column: str,
    variant: str | None,
    public_key: str | None,
    device: str,
    provider: str | None,
    threads: int | None,
) -> Report:
    """Answer rows with a bundle; each comes out as it went in, with a column "answer" added.

    INPUT is a file (.jsonl .csv .tsv .parquet .txt) or - for standard input, which may hold JSON lines or plain text.
    Order is kept, memory does not grow with the file, and --out appears only when it is whole. With --json a summary is
    printed, and the answers go to --out.
    """
    as_json = click.get_current_context().params["as_json"]
    if bool(texts) == (source is not None):
        raise click.UsageError("give either a file of rows (or - for standard input) or --text, and not both")
    if as_json and not out:
        raise click.UsageError("--json prints a summary and needs --out for the answers")
    started = time.perf_counter()
    model = load(
        bundle,
        device=device,
        provider=provider,
        variant=variant,
        threads=threads,
        public_key=public_key,
        on_long=on_long,
    )
    loaded = time.perf_counter()
    rows = enumerate(({"text": text} for text in texts), 1) if source is None else read_rows(source)
    name = source or "--text"
    done, truncated = 0, 0
    with RowWriter(out) as writer, _bar(source) as bar:
        for window in windows(rows, WINDOW):
            answered, cut = _answer(model, window, name, "text" if source is None else text_column, options)
            writer.write(answered)
            done += len(answered)
            truncated += cut
            bar.update(len(answered))
        if not done:  # said inside the block, which then leaves an older file as it was
            raise InputError(f"{name} has no rows")
    seconds = time.perf_counter() - loaded
    summary = {
        "rows": done,
        "seconds": round(seconds, 3),
        "rows_per_second": round(done / seconds, 1),
        "load_seconds": round(loaded - started, 3),
        "truncated": truncated,
        "variant": model.variant,
        "provider": model.provider,
        "nodes": model.nodes,
        "threads": threads or machine.num_threads(),
        "out": out,
    }
    text = f"{done} rows in {seconds:.1f} s ({done / seconds:,.0f} a second, {model.variant}), written to {out}"
    if truncated:
        told = f"{truncated} of {done} texts were cut at {model.encoder.max_length} tokens"
        click.echo(f"burnish: warning: {told}", err=True)
    return Report(summary, text if out else "")


def _answer(
    model: Runner, window: list[tuple[int, dict[str, Any]]], name: str, column: str, options: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Return each row with its answer added, and how many were cut; an answer that cannot say so has it beside it."""
    where = [f"{name}:{number}" for number, _ in window]
    rows = [model.task.asked(row, place, column) for (_, row), place in zip(window, where, strict=True)]
    asked = model.encode(rows, where)
    answers = model.answers(asked, **options)
    rows = [{**row, "answer": answer} for (_, row), answer in zip(window, answers, strict=True)]
    for row, one in zip(rows, asked, strict=True):
        answer = row["answer"]
        if one.truncated and isinstance(answer, list) and not any(isinstance(part, dict) for part in answer):
            row["truncated"] = True
    return rows, sum(one.truncated for one in asked)


def _bar(source: str | None) -> Any:
    """Return a bar over rows on standard error, with the time left; hidden where that is no terminal or no file."""
    length = count_rows(source) if source and source != "-" and sys.stderr.isatty() else None
    return click.progressbar(length=length or 0, label="rows", file=sys.stderr, hidden=length is None, show_pos=True)
