"""Words that should not matter, exchanged: how often a model's answer changes, and how far its scores move.

A text with a word of a group is asked again with another word of it in its place (counterfactual token fairness, Garg
et al., 2019, arXiv:1809.10610). Groups that belong together are exchanged at once, so that "he took his hat" becomes
"she took her hat". A model that is blind to the words answers both alike.

>>> swapped("He took his hat", [("he", "she"), ("his", "her")])
['She took her hat']
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve.config import read_toml
from burnish_serve.errors import InputError
from burnish_serve.evaluation import wilson
from burnish_serve.runner import Runner
from burnish_train.data import Example

Groups = list[tuple[str, ...]]
EXAMPLES = 10
# From here on (Chinese, Japanese, Korean) words have no spaces around them, and stand inside others.
UNSPACED = "\u2e80"


def read_swaps(given: Sequence[str]) -> dict[str, Groups]:
    """Return groups of words by name, from ``he,she`` and from files of TOML: ``gender = [["he", "she"], …]``.

    Raises:
        InputError: a group has fewer than two words, or groups that belong together have different numbers of them.
    """
    found: dict[str, Groups] = {}
    for one in given:
        if not one.lower().endswith(".toml"):
            found[one] = [tuple(word.strip() for word in one.split(","))]
            continue
        for name, groups in read_toml(Path(one)).items():
            lists = isinstance(groups, list) and groups and all(isinstance(words, list) for words in groups)
            if not lists or not all(isinstance(word, str) for words in groups for word in words):
                raise InputError(f'{one}: {name} must be a list of groups of words, such as [["he", "she"]]')
            found[name] = [tuple(words) for words in groups]
    for name, some in found.items():
        if any(len(words) < 2 or not all(words) for words in some) or len({len(words) for words in some}) > 1:
            raise InputError(f"--swap {name}: a group has two words or more, and groups of one name have as many each")
    return found


def swapped(text: str, groups: Groups) -> list[str]:
    """Return a text with its words of the groups exchanged: each for the next of its group, then the one behind.

    There is nothing where the text holds none of the words. Capitals stay where they are.
    """
    places = {word.casefold(): (group, i) for group in reversed(groups) for i, word in enumerate(group)}
    words = sorted((word for group in groups for word in group), key=len, reverse=True)
    pattern = re.compile("|".join(map(_pattern, words)), re.IGNORECASE)
    if not pattern.search(text):
        return []

    def put(shift: int, found: re.Match[str]) -> str:
        group, i = places.get(found[0].casefold(), ((found[0],), 0))  # letters that equal two by case are left alone
        word = group[(i + shift) % len(group)]
        if found[0].isupper() and len(found[0]) > 1:
            return word.upper()
        return word[:1].upper() + word[1:] if found[0][:1].isupper() else word

    return [pattern.sub(functools.partial(put, shift), text) for shift in range(1, len(groups[0]))]


def _pattern(word: str) -> str:
    """Return what finds a word, as a whole where its script has spaces."""
    before = r"(?<!\w)" if word[0] < UNSPACED else ""
    return before + re.escape(word) + (r"(?!\w)" if word[-1] < UNSPACED else "")


def swap_report(runner: Runner, rows: Sequence[Example], name: str, groups: Groups) -> dict[str, Any]:
    """Return how a model answers texts whose words were exchanged.

    Returns:
        ``rows`` that hold one of the words, how many of their answers ``changed`` for any exchange, with the share and
        its Wilson interval; the mean over rows of the largest change of a score; the rows that moved most.

    Raises:
        InputError: the model's task does not answer about whole texts.
    """
    if runner.task.problem_type is None:
        raise InputError(f"--swap is for tasks that answer about a whole text, not {runner.task.name}")
    asked, owners = [], []
    for number, row in enumerate(rows):
        versions = {k: swapped(v, groups) if isinstance(v, str) else [] for k, v in row.asked.items()}
        for shift in range(max(map(len, versions.values()))):
            asked.append({k: texts[shift] if (texts := versions[k]) else v for k, v in row.asked.items()})
            owners.append(number)
    held = sorted(set(owners))
    if not held:
        return {"name": name, "rows": 0, "changed": 0, "share": None, "low": None, "high": None, "examples": []}
    before = dict(zip(held, _answers(runner, [rows[number].asked for number in held]), strict=True))
    changes: dict[int, list[tuple[float, bool, dict[str, Any]]]] = {}
    for owner, (told, scores), other in zip(owners, _answers(runner, asked), asked, strict=True):
        was_told, was = before[owner]
        moved = float(np.abs(scores - was).max())
        one = {"line": rows[owner].line, "texts": list(rows[owner].texts), "swapped": list(other.values())}
        changes.setdefault(owner, []).append((moved, told != was_told, {**one, "before": was_told, "after": told}))
    worst = sorted((max(some, key=lambda one: (one[1], one[0])) for some in changes.values()), key=lambda one: -one[0])
    changed = sum(one[1] for one in worst)
    low, high = wilson(changed / len(held), len(held))
    return {
        "name": name,
        "rows": len(held),
        "changed": changed,
        "share": changed / len(held),
        "low": low,
        "high": high,
        "mean_change": float(np.mean([max(one[0] for one in some) for some in changes.values()])),
        "examples": [
            {**row, "change": round(moved, 4), "changed": differs} for moved, differs, row in worst[:EXAMPLES]
        ],
    }


def _answers(runner: Runner, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """Return what is told of each row, as JSON holds it, and the scores of all labels in the model's order."""
    asked = runner.encode(rows)
    outputs = runner.outputs(asked)
    plain = {"reject_below": 0.0} if "reject_below" in runner.task.options else {}
    found = []
    for answer, ranked in zip(
        runner.decode(asked, outputs), runner.decode(asked, outputs, top_k=None, **plain), strict=True
    ):
        told = runner.task.predicted(answer)
        by_label = {one["label"]: one["score"] for one in ranked}
        scores = np.array([by_label[label] for label in runner.labels])
        found.append((sorted(told) if isinstance(told, frozenset) else told, scores))
    return found
