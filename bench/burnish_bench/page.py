"""The figures as one HTML page that needs nothing from anywhere: plots as SVG, the tables, and the JSON itself.

>>> page(bench("bundle/", BenchConfig()))  # doctest: +SKIP
'<!doctype html>…'
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from burnish_bench import table

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 2rem 0; }
figure svg { max-width: 100%; height: auto; background: #fff; border-radius: .5rem; }
figcaption { margin-top: .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def page(data: Mapping[str, Any]) -> str:
    """Return the report of `burnish_bench.report.bench` as a page; a plot whose figures are withheld is left out."""
    name = html.escape(str(data["bundle"]))
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>burnish bench {name}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>',
        f"<h1>{name}</h1>",
        f"<p>{html.escape(str(data['task']))}, measured at {html.escape(str(data['measured_at']))}.",
        "Compare figures within this page and not across pages: machines are noisy.</p>",
        *(_table(title, rows) for title, rows in table.tables(data)),
        *_figures(data),
        f"<h2>What it was measured on</h2><pre>{html.escape(table.notes(data))}</pre>",
        "<details><summary>All figures as JSON</summary>",
        f"<pre>{html.escape(json.dumps(data, indent=1))}</pre></details>",
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Return rows, of which the first is the head, as a table."""
    head, *body = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
    lines = "\n".join(f"<tr>{row}</tr>" for row in body)
    said = f"<h2>{html.escape(title[:1].upper() + title[1:])}</h2>"
    return f'{said}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _tagged(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, Sequence[str]]]:
    for number, row in enumerate(rows):
        yield ("td" if number else "th"), row


def _figures(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the plots that the figures support."""
    yield _figure("Whole calls on all rows: texts a second, with 95 % intervals.", lambda axes: _speeds(axes, data))
    scored = [found for found in data["variants"].values() if None not in (found["score"], found["latency"]["p50_ms"])]
    if scored:
        yield _figure(f"{data['metric']} against the latency of one text.", lambda axes: _scores(axes, data))
    sweep = next(iter(data["variants"].values()))["sweep"]
    if sweep:
        size, length = min(cell["batch_size"] for cell in sweep), max(cell["length"] for cell in sweep)
        yield _figure(
            f"The session alone: latency of a batch of {size} against length.",
            lambda axes: _cells(axes, data, "length", "median_ms", batch_size=size),
        )
        yield _figure(
            f"The session alone: texts a second against batch size, {length} tokens each.",
            lambda axes: _cells(axes, data, "batch_size", "texts_per_second", length=length),
        )


def _figure(caption: str, draw: Callable[[Any], None]) -> str:
    """Return one plot as SVG whose letters are letters, the same for the same figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "burnish", "font.family": "sans-serif", "text.parse_math": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8, 4), layout="constrained")
        draw(figure.add_subplot())
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    said = html.escape(caption)
    return (
        f'<figure><div role="img" aria-label="{said}">{svg[svg.index("<svg") :]}</div>'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _speeds(axes: Any, data: Mapping[str, Any]) -> None:
    """Draw a bar for each variant and each peer."""
    found = {**data["variants"], **data["peers"]}
    speeds = [one["throughput"] for one in found.values()]
    middles = [speed["texts_per_second"] for speed in speeds]
    bounds = [(speed["low"] or middle, speed["high"] or middle) for speed, middle in zip(speeds, middles, strict=True)]
    errors = [[abs(middle - bound[side]) for middle, bound in zip(middles, bounds, strict=True)] for side in (0, 1)]
    colors = ["tab:blue" if name in data["variants"] else "tab:gray" for name in found]
    axes.barh(list(found), middles, xerr=errors, color=colors)
    axes.invert_yaxis()
    axes.set_xlabel("texts a second")


def _scores(axes: Any, data: Mapping[str, Any]) -> None:
    """Draw a point for each variant whose score and latency are known."""
    for name, found in data["variants"].items():
        x, y = found["latency"]["p50_ms"], found["score"]
        if x is not None and y is not None:
            axes.plot([x], [y], "o", color="tab:blue")
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 6))
    axes.margins(0.2)
    axes.set_xlabel("ms, p50 of one text")
    axes.set_ylabel(data["metric"])


def _cells(axes: Any, data: Mapping[str, Any], across: str, up: str, **where: int) -> None:
    """Draw a line for each variant over those cells of the sweep that stand somewhere."""
    for name, found in data["variants"].items():
        cells = [cell for cell in found["sweep"] if all(cell[key] == value for key, value in where.items())]
        axes.plot([cell[across] for cell in cells], [cell[up] for cell in cells], marker="o", label=name)
    axes.set_xlabel({"length": "tokens", "batch_size": "texts a batch"}[across])
    axes.set_ylabel({"median_ms": "ms, median", "texts_per_second": "texts a second"}[up])
    axes.set_ylim(bottom=0)
    axes.legend()
