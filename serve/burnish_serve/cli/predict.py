"""``burnish predict``: rows of a file, standard input or the command line in, the same rows with their answers out."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from burnish_serve import machine
from burnish_serve.cli.options import (
    device_option,
    provider_option,
    signature_option,
    text_column_option,
    threads_option,
    variant_option,
)
from burnish_serve.cli.verb import Report, verb
from burnish_serve.errors import InputError
from burnish_serve.rows import RowWriter, count_rows, read_rows
from burnish_serve.runner import WINDOW, Runner, load, windows
from burnish_serve.tasks import Answer


class TopK(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A whole number from 1, or ``all``."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or ``all``."""
        if value == "all" or isinstance(value, int):
            return value
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a whole number from 1 nor 'all'", param, ctx)
        return int(value)


@click.command("predict", short_help="answer the rows of a file, or texts")
@click.argument("bundle")
@click.argument("source", required=False, metavar="[INPUT|-]")
@click.option("--text", "texts", multiple=True, help="a text to answer; may be given several times")
@click.option("--out", help="file for the answers: .jsonl .csv .tsv .parquet; standard output where none is given")
@click.option("--top-k", type=TopK(), default=1, help="how many labels a row, best first  [default: 1]")
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
    top_k: Any,
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
    model = load(bundle, device=device, provider=provider, variant=variant, threads=threads, public_key=public_key)
    loaded = time.perf_counter()
    rows = enumerate(({"text": text} for text in texts), 1) if source is None else read_rows(source)
    name = source or "--text"
    done, truncated = 0, 0
    with RowWriter(out) as writer, _bar(source) as bar:
        for window in windows(rows, WINDOW):
            answered = _answer(model, window, name, "text" if source is None else text_column, top_k)
            writer.write(answered)
            done += len(answered)
            truncated += sum(_is_cut(row["answer"]) for row in answered)
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
        click.echo(
            f"burnish: warning: {truncated} of {done} texts were cut at {model.encoder.max_length} tokens", err=True
        )
    return Report(summary, text if out else "")


def _answer(
    model: Runner, window: list[tuple[int, dict[str, Any]]], name: str, column: str, top_k: Any
) -> list[dict[str, Any]]:
    """Return each row with its answer added."""
    asked = [model.task.texts(row, column, f"{name}:{number}") for number, row in window]
    answers = model(asked, top_k=None if top_k == "all" else top_k)
    return [{**row, "answer": answer} for (_, row), answer in zip(window, answers, strict=True)]


def _is_cut(answer: Answer) -> bool:
    first = answer[0] if isinstance(answer, list) else answer
    return bool(first.get("truncated"))


def _bar(source: str | None) -> Any:
    """Return a bar over rows on standard error, with the time left; hidden where that is no terminal or no file."""
    length = count_rows(source) if source and source != "-" and sys.stderr.isatty() else None
    return click.progressbar(length=length or 0, label="rows", file=sys.stderr, hidden=length is None, show_pos=True)
