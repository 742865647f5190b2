"""What an audit found, for people: the same tables on a terminal and as one HTML page that needs nothing from anywhere.

>>> text(audit(config), top=10)  # doctest: +SKIP
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8886; }
"""
# Characters of a cell on a terminal.
WIDEST = 60


class Table(NamedTuple):
    """Findings of one kind."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: int
    """How many are not shown."""


def tables(found: Mapping[str, Any], top: int) -> list[Table]:
    """Return the tables of an audit, each with so many rows at the most; kinds without findings have none."""
    moved = [{"name": one["name"], **example} for one in found["swaps"] for example in one["examples"]]
    kinds: list[tuple[str, str, Sequence[Any], Callable[[Any], Sequence[Any]]]] = [
        ("likely wrong labels", "line, label, suggested, quality, text", found["wrong_labels"], _wrong_label),
        ("duplicates", "lines, labels, text", found["duplicates"], _duplicate),
        ("near-duplicates", "lines, cosine, labels, text, other text", found["near_duplicates"], _near),
        ("held-out rows that were seen", "row, seen as, cosine, labels, text, seen text", found["leaks"], _leak),
        ("slices, the worst first", "by, value, rows, accuracy, 95 % interval", found["slices"], _slice),
        ("words exchanged", "words, rows, answers changed, 95 % interval, mean change", found["swaps"], _swap),
        ("texts that moved most", "words, line, change, before, after, text, exchanged", moved, _moved),
    ]
    return [
        Table(
            f"{title}: {len(some)}",
            head.split(", "),
            [[str(cell) for cell in row_of(one)] for one in some[:top]],
            max(0, len(some) - top),
        )
        for title, head, some, row_of in kinds
        if some
    ]


def _wrong_label(one: Mapping[str, Any]) -> Sequence[Any]:
    return one["line"], one["label"], one["suggested"], f"{one['quality']:.4f}", _joined(one["texts"])


def _duplicate(one: Mapping[str, Any]) -> Sequence[Any]:
    return ", ".join(map(str, one["lines"])), _labels(one), _joined(one["texts"])


def _near(one: Mapping[str, Any]) -> Sequence[Any]:
    lines = ", ".join(map(str, one["lines"]))
    return lines, f"{one['cosine']:.3f}", _labels(one), *map(_joined, one["texts"])


def _leak(one: Mapping[str, Any]) -> Sequence[Any]:
    places = f"{one['to']} {one['line']}", f"{one['from']} {one['train_line']}"
    like = "same" if one["kind"] == "same" else f"{one['cosine']:.3f}"
    return *places, like, _labels(one), *map(_joined, one["texts"])


def _slice(one: Mapping[str, Any]) -> Sequence[Any]:
    return one["by"], one["value"], one["rows"], f"{one['accuracy']:.3f}", _interval(one)


def _swap(one: Mapping[str, Any]) -> Sequence[Any]:
    if not one["rows"]:
        return one["name"], 0, "", "", ""
    return one["name"], one["rows"], one["changed"], _interval(one), f"{one['mean_change']:.4f}"


def _moved(one: Mapping[str, Any]) -> Sequence[Any]:
    told = one["name"], one["line"], f"{one['change']:.4f}", one["before"], one["after"]
    return *told, _joined(one["texts"]), _joined(one["swapped"])


def summary(found: Mapping[str, Any]) -> list[str]:
    """Return the sentences above the tables."""
    lines = [f"{found['source']}: {found['rows']} rows, {found['task']}"]
    if found["accuracy"] is not None:
        low, high = found["interval"]
        who = "a linear probe that has not seen the row" if found["answers"] == "probe" else found["answers"]
        lines.append(f"accuracy {found['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), by {who}")
    return [*lines, *(f"note: {note}" for note in found["notes"])]


def text(found: Mapping[str, Any], top: int) -> str:
    """Return an audit as text for a terminal; what a terminal would obey is not printed."""
    lines = summary(found)
    for table in tables(found, top):
        cells = [list(table.head), *([_cut(cell) for cell in row] for row in table.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(table.head))]
        padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
        lines += ["", table.title, *(f"  {row}".rstrip() for row in padded)]
        lines += [f"  … and {table.more} more"] * bool(table.more)
    return "\n".join(lines)


def page(found: Mapping[str, Any], top: int) -> str:
    """Return an audit as a page; the tables are ten times as long as on a terminal."""
    name = html.escape(str(found["source"]))
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>burnish audit {name}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>',
        f"<h1>{name}</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in summary(found)),
        *map(_table, tables(found, 10 * top)),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> str:
    rows = [_row("th", table.head), *(_row("td", row) for row in table.rows)]
    more = f"<p>… and {table.more} more</p>" if table.more else ""
    return f'<h2>{html.escape(table.title)}</h2><div class="wide"><table>{"".join(rows)}</table></div>{more}'


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cut(cell: str) -> str:
    plain = "".join(sign if sign.isprintable() else " " for sign in cell)
    return plain if len(plain) <= WIDEST else plain[: WIDEST - 1] + "…"


def _joined(texts: Sequence[str]) -> str:
    return " | ".join(map(str, texts))


def _labels(one: Mapping[str, Any]) -> str:
    labels = list(dict.fromkeys(map(str, one["labels"])))
    return " / ".join(labels) if one["differ"] else labels[0]


def _interval(one: Mapping[str, Any]) -> str:
    return f"{one['low']:.3f} to {one['high']:.3f}"
