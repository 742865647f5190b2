"""What holds between two marked words of a text: cause and effect, a part and its whole, an employer and a founder.

The two stand between markers, ``the <e1> flood </e1> came from <e2> rain </e2>``, or are given as character spans
beside the text, and the markers are put around them here. Training makes each marker one token of the vocabulary. The
answer is that of text classification. Labels may end in a direction, ``(e1,e2)`` or ``(e2,e1)``; ``Other`` says that
none of the relations holds.

>>> TASK.texts({"text": "rain makes floods", "e1": [0, 4], "e2": [11, 17]}, "row 1")
('<e1> rain </e1> makes <e2> floods </e2>',)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from burnish_serve.errors import InputError
from burnish_serve.rows import field_text
from burnish_serve.tasks.pooling import ENTITY_STARTS
from burnish_serve.tasks.task import Answer, Reading, Task
from burnish_serve.tasks.text_classification import decode, predicted, right

MARKERS = tuple(marker for start in ENTITY_STARTS for marker in (start, start.replace("<", "</")))
OTHER = "Other"
SPANS = ("e1", "e2")
FOUND = re.compile("|".join(map(re.escape, MARKERS)))
DIRECTION = re.compile(r"\(e[12],e[12]\)$")


def check(column: str, value: Any, where: str) -> None:
    """Raise InputError where a column holds no text, or no span where it should."""
    if column in SPANS:
        _span(column, value, where)
    else:
        field_text({column: value}, column, where)


def texts(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the text with its markers.

    Raises:
        InputError: markers are missing, doubled, unclosed or nested; or spans are not in the text or overlap.
    """
    text: str = row["text"]
    found = [(match[0], match.start()) for match in FOUND.finditer(text)]
    if SPANS[0] in row:
        if found:
            marker, place = found[0]
            raise InputError(f"{where}: spans are given, and the text has a marker {marker} at {place} already")
        return (_marked(text, [_span(name, row[name], where) for name in SPANS], where),)
    names = [marker for marker, _ in found]
    for marker in MARKERS:
        if names.count(marker) != 1:
            stands = "is missing" if marker not in names else f"stands {names.count(marker)} times, not once"
            raise InputError(f"{where}: the marker {marker} {stands}: {_shown(text)}")
    for first, second in (names[:2], names[2:]):
        if first not in ENTITY_STARTS or second != first.replace("<", "</"):
            raise InputError(f"{where}: the marker {first} is followed by {second}: {_shown(text)}")
    for number in (0, 2):
        inside = text[found[number][1] + len(names[number]) : found[number + 1][1]]
        if not inside.strip():
            raise InputError(f"{where}: nothing stands between {names[number]} and {names[number + 1]}: {_shown(text)}")
    return (text,)


def _marked(text: str, spans: Sequence[tuple[int, int]], where: str) -> str:
    """Return a text with markers around two spans, each with a space as in the data that such models know."""
    for name, (start, end) in zip(SPANS, spans, strict=True):
        if not 0 <= start < end <= len(text) or not text[start:end].strip():
            raise InputError(
                f"{where}: the span {name} [{start}, {end}] is not in the text of {len(text)} characters, "
                f"or holds nothing: {_shown(text)}"
            )
    first, second = sorted(zip(spans, (MARKERS[:2], MARKERS[2:]), strict=True))
    if second[0][0] < first[0][1]:
        raise InputError(f"{where}: the spans {SPANS[0]} {[*spans[0]]} and {SPANS[1]} {[*spans[1]]} overlap")
    for (start, end), (opens, closes) in (second, first):
        text = f"{text[:start]}{opens} {text[start:end]} {closes}{text[end:]}"
    return text


def _span(name: str, value: Any, where: str) -> tuple[int, int]:
    """Return a span: two numbers, or a string that holds them, as CSV does."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError:
            found = None
    if not isinstance(found, list) or len(found) != 2 or any(type(number) is not int for number in found):
        told = json.dumps(value, default=str)
        raise InputError(f"{where}: column {name!r} must hold a span [start, end] in characters, not {told}")
    return found[0], found[1]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "…")


def relation(label: str) -> str:
    """Return a label without its direction."""
    return DIRECTION.sub("", label)


def score(rights: Sequence[str], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return the official score of SemEval-2010 task 8, accuracy, and precision, recall and F1 per relation.

    ``f1_official`` is the mean F1 of the relations that stand in ``rights``, without `OTHER`. An answer is right where
    relation and direction both are; one with the wrong direction counts among what was answered and what was due of
    that relation (Hendrickx et al., 2010, https://aclanthology.org/S10-1006; their scorer's version 1.2). Labels
    without direction make it plain macro-F1.
    """
    found = [predicted(answer) for answer in answers]
    due, given, hits = (dict.fromkeys(sorted(map(relation, [*rights, *found])), 0) for _ in range(3))
    for wanted, label in zip(rights, found, strict=True):
        due[relation(wanted)] += 1
        given[relation(label)] += 1
        hits[relation(label)] += wanted == label
    per_class = {
        name: {
            "precision": hits[name] / max(1, given[name]),
            "recall": hits[name] / max(1, due[name]),
            "f1": 2 * hits[name] / (given[name] + due[name]),
            "rows": due[name],
        }
        for name in due
    }
    counted = [per_class[name] for name in due if due[name] and name != OTHER]
    means = {key: sum(one[key] for one in counted) / max(1, len(counted)) for key in ("f1", "precision", "recall")}
    return {
        "f1_official": means["f1"],
        "precision_official": means["precision"],
        "recall_official": means["recall"],
        "accuracy": sum(hits.values()) / max(1, len(rights)),
        "per_class": per_class,
    }


TASK = Task(
    name="relation-extraction",
    pipeline="text-classification",
    head="SequenceClassification",
    problem_type="single_label_classification",
    columns=(("text", *SPANS), ("text",)),
    label_column="label",
    outputs=("logits",),
    tokens=MARKERS,
    texts=texts,
    check=check,
    right=right,
    names=lambda label: (label,),
    decode=decode,
    options={"top_k": 1, "reject_below": None},
    predicted=predicted,
    agrees=lambda label, answer: label == predicted(answer),
    score=score,
    metric="f1_official",
)
