"""Explanations as one page of HTML that needs nothing from anywhere, in a light and in a dark dress.

A word's strength is its colour, its sign is the colour and the line below it, and its number stands in its title and in
a table for those who see neither.

>>> page(explain(model, ["great film"]), "bundle/", "occlusion")  # doctest: +SKIP
'<!doctype html>…'
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from burnish_serve.explaining import Explanation

STYLE = """
:root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif;
  --for: light-dark(#9fc3f5, #1f4e8c); --against: light-dark(#f7b98b, #8a4310) }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
article { border-top: 1px solid #8886; margin-top: 1.5rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem }
.text { white-space: pre-wrap; line-height: 2 }
mark { color: inherit; padding: .1rem; border-radius: .2rem;
  background: color-mix(in srgb, var(--color) calc(var(--strength) * 100%), transparent) }
.for { --color: var(--for); border-bottom: 2px solid } .against { --color: var(--against); border-bottom: 2px dashed }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { text-align: start } th, td { text-align: start; padding: .1rem .75rem; border-bottom: 1px solid #8886 }
td:nth-child(n+2) { text-align: end }
"""
LEGEND = (
    '<p>A word that spoke <mark class="for" style="--strength:1">for</mark> the answer has a solid line below it, one '
    'that spoke <mark class="against" style="--strength:1">against</mark> it a dashed line; the stronger its colour, '
    "the more. Its weight stands in its title, and in the table below each text.</p>"
)
# Of the strongest word's weight: below it a word is left without a colour.
FAINT = 0.05


def page(explanations: Iterable[Explanation], target: str, method: str) -> str:
    """Return explanations as a page.

    Args:
        explanations: any number.
        target: the bundle or the checkpoint, for the title.
        method: how the words were weighed.
    """
    name = html.escape(target)
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>burnish explain {name}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>',
            f"<h1>Which words made the answer</h1><p>{name}, {html.escape(method)}</p>{LEGEND}",
            *(_article(explanation) for explanation in explanations),
            "</main></body></html>\n",
        ]
    )


def shares(explanation: Explanation) -> list[float]:
    """Return each word's weight as a share of the strongest one's, between -1 and 1; 0 for those that hardly weigh."""
    weights = [word["weight"] for word in explanation.words]
    most = max(map(abs, weights), default=0.0) or 1.0
    return [weight / most if abs(weight) >= FAINT * most else 0.0 for weight in weights]


def _article(explanation: Explanation) -> str:
    answer = explanation.answer
    rows = "".join(
        f"<tr><td>{html.escape(word['word'])}</td><td>{word['weight']:+.3f}</td>"
        f"<td>{word['start']}–{word['end']}</td></tr>"
        for word in explanation.words
    )
    return (
        f"<article><h2>{html.escape(answer['label'])} {answer['score']:.4f}</h2>{''.join(_texts(explanation))}"
        "<details><summary>Weights</summary><table><caption>Weight of each word, in the text's order</caption>"
        f"<thead><tr><th>word</th><th>weight</th><th>characters</th></tr></thead><tbody>{rows}</tbody></table>"
        "</details></article>"
    )


def _texts(explanation: Explanation) -> Iterator[str]:
    """Yield each text with its words marked, whatever stands between them kept."""
    for column, text in explanation.texts.items():
        parts, end = [], 0
        for word, share in zip(explanation.words, shares(explanation), strict=True):
            if word.get("column", column) != column:
                continue
            parts.append(html.escape(text[end : word["start"]]))
            shown, end = html.escape(text[word["start"] : word["end"]]), word["end"]
            title, kind = f'title="{word["weight"]:+.3f}"', "for" if share > 0 else "against"
            look = f'class="{kind}" style="--strength:{abs(share):.2f}" {title}'
            parts.append(f"<mark {look}>{shown}</mark>" if share else f"<span {title}>{shown}</span>")
        yield f'<p class="text" lang="" dir="auto">{"".join(parts)}{html.escape(text[end:])}</p>'
