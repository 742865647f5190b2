"""A page in HTML that needs nothing from anywhere: sections, tables that can be read aloud, and pictures beside them.

All that is given as text is escaped here. A policy in the page itself forbids it to load anything.

>>> table("Scores", ["metric", "dev"], [["accuracy", 0.93]])  # doctest: +SKIP
'<div class="wide" …><table …'
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1b1d1f, #e8e6e1); --paper: light-dark(#fbfaf7, #17191b);
  --line: light-dark(#d5d0c4, #3c4043); --soft: light-dark(#efece4, #24272a); --faint: light-dark(#5c5850, #aaa59b);
  --one: light-dark(#2563a8, #7ab3ee); --two: light-dark(#b3541e, #f0a06a); --three: light-dark(#2e7d4f, #6fcf97) }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; font: 1rem/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
p { margin: .4rem 0; max-width: 48rem; overflow-wrap: anywhere }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none }
a { color: var(--one) }
:focus-visible { outline: 3px solid var(--two); outline-offset: 2px }
.side { display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)) }
.wide { overflow-x: auto; margin: .5rem 0; scrollbar-width: thin }
figure { margin: .5rem 0 }
figure svg { display: block; width: 100%; height: auto; max-width: 44rem }
figure.large svg { max-width: none; min-width: 56rem }
figcaption { color: var(--faint); font-size: .9rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
caption { text-align: start; color: var(--faint); padding-bottom: .3rem }
th, td { padding: .25rem .7rem; text-align: start; vertical-align: top; border-bottom: 1px solid var(--line) }
tbody th { font-weight: 400 }
thead th { white-space: nowrap }
.number { text-align: end; white-space: nowrap }
.text { min-width: 13rem; max-width: 32rem; white-space: pre-line; overflow-wrap: break-word }
@media (max-width: 40rem) { tbody th:not(.number) { min-width: 10rem; overflow-wrap: anywhere } }
.bar { display: block; width: 9rem; height: .8rem; margin-top: .35rem; background: var(--soft) }
.bar i { display: block; height: 100%; background: var(--one) }
.cell { text-align: end; background: color-mix(in srgb, var(--one) calc(var(--share) * 45%), transparent) }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Bar(NamedTuple):
    """A cell that draws a share of 0 to 1 whose number stands beside it."""

    share: float


class Shaded(NamedTuple):
    """A cell with a number, the darker the greater its share of 0 to 1."""

    value: int
    share: float


Cell = str | int | float | Bar | Shaded | None


class Section(NamedTuple):
    """A part of a page, with a heading that the list of contents names."""

    title: str
    parts: Sequence[str]


def page(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a whole page: a heading, paragraphs of text, the contents, and the sections."""
    names = [section.title.lower().replace(" ", "-") for section in sections]
    links = [
        f'<li><a href="#{html.escape(name)}">{html.escape(section.title)}</a></li>'
        for name, section in zip(names, sections, strict=True)
    ]
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<header><h1>{html.escape(title)}</h1>",
        *map(paragraph, lead),
        '<nav aria-label="Contents"><ul>',
        *links,
        "</ul></nav></header><main>",
    ]
    for name, section in zip(names, sections, strict=True):
        said = html.escape(name)
        parts.append(f'<section aria-labelledby="{said}"><h2 id="{said}">{html.escape(section.title)}</h2>')
        parts += [*section.parts, "</section>"]
    return "\n".join([*parts, "</main></body></html>"]) + "\n"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def items(texts: Iterable[str]) -> str:
    """Return a list of texts."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table whose first column names its rows; it scrolls by itself where it is wider than the page."""
    body = [list(row) for row in rows]
    numbers = [any(isinstance(row[i], int | float | Shaded) for row in body) for i in range(len(head))]
    names = "".join(
        f'<th scope="col"{" class=number" * number}>{html.escape(name)}</th>'
        for name, number in zip(head, numbers, strict=True)
    )
    lines = "\n".join("<tr>" + _row(row, numbers) + "</tr>" for row in body)
    said = html.escape(caption)
    return (
        f'<div class="wide" role="region" aria-label="{said}" tabindex="0"><table><caption>{said}</caption>'
        f"<thead><tr>{names}</tr></thead><tbody>\n{lines}\n</tbody></table></div>"
    )


def figure(svg: str, caption: str, said: str, *, large: bool = False) -> str:
    """Return a picture with its caption, and what is said of it to those who do not see it."""
    return (
        f'<figure{" class=large" * large}><div{" class=wide tabindex=0" * large} role="img" '
        f'aria-label="{html.escape(said)}">{svg}</div><figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def side(parts: Iterable[str]) -> str:
    """Return parts side by side, where there is room for it."""
    return '<div class="side">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"


def folded(summary: str, part: str) -> str:
    """Return a part that is opened by who wants to see it."""
    return f"<details><summary>{html.escape(summary)}</summary>{part}</details>"


def number(value: float) -> str:
    """Return a number as people read it: four digits behind the point, more of them where it is small."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def shortened(text: str, length: int) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _row(row: Sequence[Cell], numbers: Sequence[bool]) -> str:
    first, *rest = zip(row, numbers, strict=True)
    kind = ' class="number"' * first[1] or ' class="text"' * (len(_told(first[0])) > 40)
    return f'<th scope="row"{kind}>{_told(first[0])}</th>' + "".join(_cell(*pair) for pair in rest)


def _cell(value: Cell, is_number: bool) -> str:
    if isinstance(value, Bar):
        return f'<td aria-hidden="true"><span class="bar"><i style="width:{100 * value.share:.1f}%"></i></span></td>'
    if isinstance(value, Shaded):
        return f'<td class="cell" style="--share:{value.share:.3f}">{value.value}</td>'
    told = _told(value)
    return f"<td{' class=number' * is_number or ' class=text' * (len(told) > 40)}>{told}</td>"


def _told(value: Cell) -> str:
    if isinstance(value, float):
        return number(value)
    return "" if value is None or isinstance(value, Bar | Shaded) else html.escape(str(value))
