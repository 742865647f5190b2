"""Rows with spans in them: as tokens with tags, or as a text with character spans; both become character spans.

Tokens are joined to one text: with spaces, or without where each is one character and some are Chinese or Japanese.

>>> texts({"tokens": ["Ada", "wrote"]}, "row 1")
('Ada wrote',)
>>> right({"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]}, {"tokens": ["Ada", "wrote"]}, "tags", "row 1")
((0, 3, 'PER'),)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.rows import columns_of, field_text
from burnish_serve.tasks.tagging import KNOWN, OUTSIDE, is_tag, repaired, runs
from burnish_serve.tasks.task import Ids, Row

Span = tuple[int, int, str]
"""First character, the one behind the last, label."""
NAMES_OF_LABEL = ("label", "slot", "entity", "entity_group", "type")
# Kana, CJK ideographs and what stands between them; compatibility ideographs; planes 2 and 3.
UNSPACED = (("\u3040", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))


def check(column: str, value: Any, where: str) -> None:
    """Raise InputError where a value is not what its column holds: a list of texts, or a text."""
    if column == "tokens":
        _listed(value, column, where)
    else:
        field_text({column: value}, column, where)


def texts(asked: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the one text of a row by the task's columns."""
    if "tokens" not in asked:
        return (asked["text"],)
    tokens = tokens_of(asked)
    return (delimiter_of(tokens).join(tokens),)


def tokens_of(asked: Mapping[str, Any]) -> list[str]:
    """Return the tokens of a row that has some."""
    return _listed(asked["tokens"], "tokens", "row")


def delimiter_of(tokens: Sequence[str]) -> str:
    """Return what stands between tokens in a text."""
    single = all(len(token) == 1 for token in tokens)
    return "" if single and any(first <= token <= last for token in tokens for first, last in UNSPACED) else " "


def bounds_of(tokens: Sequence[str]) -> Ids:
    """Return first character of each token and the one behind its last, in their text: int64 ``[tokens, 2]``."""
    lengths = np.array([len(token) for token in tokens], dtype=np.int64)
    ends = np.cumsum(lengths) + len(delimiter_of(tokens)) * np.arange(len(tokens))
    return np.stack([ends - lengths, ends], axis=1)


def token_at(bounds: Ids, characters: Any) -> Any:
    """Return which of a row's tokens a character belongs to; the space before a token is its own."""
    return np.minimum(np.searchsorted(bounds[:, 1], characters, side="right"), len(bounds) - 1)


def right(row: Row, asked: Mapping[str, Any], column: str, where: str) -> tuple[Span, ...]:
    """Return the spans of a row, in order, each once.

    Raises:
        InputError: the column is missing, holds no list, or holds what cannot be a tag or a span of this row.
    """
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; the columns there are: {columns_of(row)}")
    if "tokens" in asked:
        return _from_tags(tokens_of(asked), row[column], column, where)
    values = _from_json(row[column])
    if not isinstance(values, list):
        raise InputError(f"{where}: column {column!r} must hold a list of spans, not {_shown(values)}")
    return tuple(sorted({_span(value, asked["text"], column, where) for value in values}))


def _from_tags(tokens: Sequence[str], tags: Any, column: str, where: str) -> tuple[Span, ...]:
    tags = _from_json(tags)
    if not isinstance(tags, list):
        raise InputError(f"{where}: column {column!r} must hold a list of tags, not {_shown(tags)}")
    for tag in tags:
        if not is_tag(tag):
            raise InputError(
                f"{where}: {_shown(tag)} in column {column!r} is a tag of no known scheme; known are {KNOWN}"
            )
    if len(tags) != len(tokens):
        raise InputError(
            f"{where}: column {column!r} has {len(tags)} tags for {len(tokens)} tokens; each needs one: {_shown(tags)}"
        )
    bounds = bounds_of(tokens)
    spans = [(int(bounds[first, 0]), int(bounds[end - 1, 1]), kind) for first, end, kind in runs(tags)]
    for start, end, kind in spans:
        if start == end:
            raise InputError(f"{where}: a tag of {kind!r} in column {column!r} stands on an empty token")
    return tuple(spans)


def _span(value: Any, text: str, column: str, where: str) -> Span:
    """Return one span of a text."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: a span in column {column!r} must be an object, not {_shown(value)}")
    start, end = value.get("start"), value.get("end")
    label = next((value[name] for name in NAMES_OF_LABEL if name in value), None)
    if type(start) is not int or type(end) is not int:
        raise InputError(f"{where}: a span needs start and end, whole numbers of characters; got {_shown(value)}")
    if not isinstance(label, str) or label in {"", OUTSIDE}:
        names = ", ".join(NAMES_OF_LABEL)
        raise InputError(f"{where}: a span needs a label (in one of {names}) other than 'O'; got {_shown(value)}")
    if not 0 <= start < end <= len(text):
        raise InputError(
            f"{where}: the span {_shown(value)} is empty or outside its text, which has {len(text)} characters"
        )
    if value.get("text", text[start:end]) != text[start:end]:
        raise InputError(f"{where}: the span {_shown(value)} does not say what stands there: {_shown(text[start:end])}")
    return start, end, label


def apart(spans: Sequence[Span]) -> list[Span]:
    """Return the spans in order, without those that overlap a longer one, or an earlier one of the same length."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0] - span[1], span)):
        if all(span[1] <= other[0] or other[1] <= span[0] for other in kept):
            kept.append(span)
    return sorted(kept)


def remark(spans: Sequence[Span], given: Any) -> str:
    """Return what should be told of the spans of a row, and of the tags or spans that it gave; nothing, most often."""
    if len(apart(spans)) < len(spans):
        return "spans that overlap, of which only the longest are learned"
    tags = _from_json(given)
    if isinstance(tags, list) and all(map(is_tag, tags)) and repaired(tags) != tags:
        return "tags that go on where no span stands (I-PER behind O), read as the beginning of one"
    return ""


def _listed(value: Any, column: str, where: str) -> list[str]:
    tokens = _from_json(value)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{where}: column {column!r} must hold a list of texts, not {_shown(value)}")
    return tokens


def _from_json(value: Any) -> Any:
    """Return a value, or what it says where it is a list as CSV holds it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:119] + "…"
