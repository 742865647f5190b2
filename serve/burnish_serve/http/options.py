"""What a request may ask of a task: the options of ``burnish predict``, as JSON, checked before anything is computed.

>>> checked({"top_k": 0}, {"top_k": 1})
Traceback (most recent call last):
...
burnish_serve.http.refusal.Refusal: the option top_k must be a whole number from 1, null for all, or "threshold"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from burnish_serve.http.refusal import Refusal
from burnish_serve.tasks.grouping import STRATEGIES


def _whole(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**31


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "top_k": (
        lambda value: value is None or value == "threshold" or _whole(value),
        'a whole number from 1, null for all, or "threshold"',
    ),
    "reject_below": (lambda value: type(value) in {int, float} and 0 <= value <= 1, "a number from 0 to 1"),
    "aggregation_strategy": (
        lambda value: isinstance(value, str) and value in STRATEGIES,
        f"one of {', '.join(STRATEGIES)}",
    ),
    "max_answer_len": (_whole, "a whole number from 1"),
    "handle_impossible_answer": (lambda value: type(value) is bool, "true or false"),
    "align_to_words": (lambda value: type(value) is bool, "true or false"),
    "targets": (
        lambda value: isinstance(value, list) and 0 < len(value) <= 100 and all(isinstance(one, str) for one in value),
        "a list of 1 to 100 words",
    ),
}


def checked(given: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a request.

    Args:
        given: what the request has of them.
        known: the options of the task.

    Raises:
        Refusal: it is no object, or has an option that the task has not, or of another kind (422).
    """
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise Refusal(422, "bad_option", "options must be an object")
    for name, value in given.items():
        if name not in known or name not in KINDS:
            raise Refusal(422, "bad_option", f"the task has these options and no others: {', '.join(known) or 'none'}")
        right, wanted = KINDS[name]
        if not right(value):
            raise Refusal(422, "bad_option", f"the option {name} must be {wanted}")
    return dict(given)
