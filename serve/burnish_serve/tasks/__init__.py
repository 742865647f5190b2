"""All tasks, in one explicit dict: a task is one file beside this one and one entry here."""

from __future__ import annotations

from burnish_serve.errors import InputError
from burnish_serve.tasks import (
    feature_extraction,
    fill_mask,
    multi_label,
    question_answering,
    regression,
    relation_extraction,
    text_classification,
    token_classification,
)
from burnish_serve.tasks.task import Answer, Asked, Decoding, Encoded, Logits, Outputs, Reading, Row, Task

__all__ = [
    "TASKS",
    "Answer",
    "Asked",
    "Decoding",
    "Encoded",
    "Logits",
    "Outputs",
    "Reading",
    "Row",
    "Task",
    "task_named",
]

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK
    for module in (
        text_classification,
        multi_label,
        regression,
        feature_extraction,
        relation_extraction,
        token_classification,
        question_answering,
        fill_mask,
    )
}


def task_named(name: str) -> Task:
    """Return the task of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise InputError(f"no task is named {name!r}; the tasks are: {', '.join(sorted(TASKS))}")
    return TASKS[name]
