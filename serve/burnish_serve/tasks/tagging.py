"""Tags of words and the spans that they stand for, in BIO (Ramshaw and Marcus, 1995, cmp-lg/9505040) and in BIOES.

Tags are read leniently, as seqeval and conlleval read them: an ``I-`` or ``E-`` that goes on with nothing begins a
span. So IOB1, where ``B-`` stands between neighbours only, is read rightly too.

>>> runs(["O", "I-PER", "I-PER", "B-PER"])
[(1, 3, 'PER'), (3, 4, 'PER')]
>>> repaired(["O", "I-PER", "I-PER", "B-PER"])
['O', 'B-PER', 'I-PER', 'B-PER']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OUTSIDE = "O"
SCHEMES = ("BIO", "BIOES")
GOES_ON, ENDS = "IE", "ES"
KNOWN = "BIO (O, B-PER, I-PER) and BIOES (these, E-PER and S-PER)"


def is_tag(value: object) -> bool:
    """Return whether a value is a tag of one of the schemes."""
    if not isinstance(value, str):
        return False
    prefix, dash, kind = value.partition("-")
    return value == OUTSIDE or (prefix in tuple("BIES") and dash == "-" and kind not in {"", OUTSIDE})


def kind_of(label: str) -> str:
    """Return the type that a label stands for: ``PER`` of ``B-PER``; a label without a prefix is its own."""
    return label.split("-", 1)[-1]


def kinds_of(labels: Sequence[str]) -> list[str]:
    """Return the types of labels, each once, in their order."""
    return list(dict.fromkeys(kind_of(label) for label in labels if label != OUTSIDE))


def runs(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return the spans of tags as (first word, word behind the last, type)."""
    found: list[tuple[int, int, str]] = []
    before = OUTSIDE
    for place, tag in enumerate(tags):
        if tag != OUTSIDE:
            kind = kind_of(tag)
            if tag[0] in GOES_ON and before[0] not in ENDS and before != OUTSIDE and kind_of(before) == kind:
                found[-1] = (found[-1][0], place + 1, kind)
            else:
                found.append((place, place + 1, kind))
        before = tag
    return found


def tags_of(spans: Iterable[tuple[int, int, str]], count: int, scheme: str) -> list[str]:
    """Return the tags of so many words for spans as `runs` returns them, in a scheme of `SCHEMES`."""
    tags = [OUTSIDE] * count
    for first, end, kind in spans:
        tags[first:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - first - 1)]
        if scheme == "BIOES":
            tags[end - 1] = f"{'S' if end - first == 1 else 'E'}-{kind}"
    return tags


def repaired(tags: Sequence[str]) -> list[str]:
    """Return tags that stand for the same spans by the rules of their scheme: BIOES where an E- or S- is among them."""
    scheme = "BIOES" if any(tag[0] in ENDS for tag in tags) else "BIO"
    return tags_of(runs(tags), len(tags), scheme)


def labels_for(kinds: Iterable[str], scheme: str) -> tuple[str, ...]:
    """Return the labels of a model that finds spans of these types."""
    prefixes = "BI" if scheme == "BIO" else "BIES"
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in prefixes))
