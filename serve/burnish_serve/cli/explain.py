"""``burnish explain``: which words made the answers of a bundle or a checkpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from burnish_serve.cli.evaluate import open_model
from burnish_serve.cli.options import (
    device_option,
    on_long_option,
    provider_option,
    signature_option,
    text_column_option,
    threads_option,
    variant_option,
)
from burnish_serve.cli.verb import Report, verb
from burnish_serve.errors import InputError
from burnish_serve.explaining import Explanation, default_method, explained
from burnish_serve.explaining.methods import METHODS, WAYS
from burnish_serve.explaining.page import page, shares
from burnish_serve.rows import count_rows, read_rows
from burnish_serve.tasks import Row
from burnish_serve.writing import RowWriter, write_text


@click.command("explain", short_help="show which words made an answer")
@click.argument("target", metavar="BUNDLE|CHECKPOINT")
@click.option("--text", "texts", multiple=True, help="a text to explain; may be given several times")
@click.option("--data", help="rows to explain: .jsonl .csv .tsv .parquet .txt, or - for standard input")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="how words are weighed  [default: gradients on a checkpoint, occlusion on a bundle]",
)
@click.option(
    "--by",
    type=click.Choice(WAYS),
    help="how occlusion hides a word  [default: delete]",
)
@click.option("--steps", type=click.IntRange(2), help="points at which gradients are taken  [default: 50]")
@click.option("--label", help="the label to explain  [default: the answer's; of several labels each that is given]")
@click.option("--out", help="file for the rows with their words: .jsonl .csv .tsv .parquet")
@click.option("--html", type=click.Path(path_type=Path), help="file for a page, which needs no other file")
@on_long_option
@text_column_option
@variant_option
@signature_option
@device_option
@provider_option
@threads_option
@verb()
def command(
    target: str,
    texts: tuple[str, ...],
    data: str | None,
    method: str | None,
    by: str | None,
    steps: int | None,
    label: str | None,
    out: str | None,
    html: Path | None,
    text_column: str,
    **opening: Any,
) -> Report:
    """Weigh each word by what it did for the answer: positive spoke for it, negative against it.

    On a bundle by occlusion, without PyTorch; on a checkpoint by integrated gradients (extra: train). Weights are in
    units of log-odds, or of the number that is predicted.
    """
    if bool(texts) == (data is not None):
        raise click.UsageError("give either --data (a file of rows, or - for standard input) or --text, and not both")
    if html and not html.parent.is_dir():
        raise InputError(f"no such folder: {html.parent}")
    writer = RowWriter(out) if out else None
    model = open_model(target, **opening)
    method = method or default_method(model)
    rows: list[Row] = []

    def asked() -> Iterator[tuple[str, Row]]:
        """Yield each row by the task's columns, and keep it as it was given."""
        name, column = ("--text", "text") if data is None else (data, text_column)
        for number, row in enumerate(({"text": text} for text in texts), 1) if data is None else read_rows(data):
            rows.append(row)
            yield f"{name}:{number}", model.task.asked(row, f"{name}:{number}", column)

    length = count_rows(data) if data and data != "-" and sys.stderr.isatty() else None
    with click.progressbar(asked(), length or 0, "rows", file=sys.stderr, hidden=length is None) as bar:
        found = list(explained(model, bar, method=method, by=by, steps=steps, label=label))
    if not found:
        raise InputError(f"{data} has no rows")
    told = [{**rows[one.row], **one.told()} for one in found]
    if writer:
        with writer:
            writer.write(told)
    if html:
        write_text(html, page(found, target, method))
    summary = {
        "task": model.task.name,
        "rows": len(rows),
        "method": method,
        "variant": model.variant,
        "provider": model.provider,
        "explanations": told,
    }
    written = [f"{len(rows)} rows explained by {method}, written to {path}" for path in (out, html) if path]
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return Report(summary, "\n".join(written or [shown(one, coloured=coloured) for one in found]))


def shown(explanation: Explanation, *, coloured: bool) -> str:
    """Return an explanation for a terminal: its answer, then its words, coloured or each with its weight."""
    answer, delta = explanation.answer, explanation.convergence_delta
    remark = "" if delta is None else f"  (convergence delta {delta:+.4f})"
    lines = [f"{answer['label']} {answer['score']:.4f}{remark}"]
    for column, text in explanation.texts.items():
        parts, end = [], 0
        for word, share in zip(explanation.words, shares(explanation), strict=True):
            if word.get("column", column) != column:
                continue
            start, told = word["start"], text[word["start"] : word["end"]]
            parts += [text[end:start], _styled(told, share)] if coloured else [f" {told}({word['weight']:+.2f})"]
            end = word["end"]
        lines.append("  " + "".join([*parts, text[end:]] if coloured else parts).strip())
    return "\n".join(lines)


def _styled(word: str, share: float) -> str:
    """Return a word for a dark or a light terminal: the stronger the louder, and underlined where it speaks against."""
    if not share:
        return word
    loud = abs(share)
    return click.style(
        word, fg="green" if share > 0 else "red", bold=loud > 1 / 3, reverse=loud > 2 / 3, underline=share < 0
    )
