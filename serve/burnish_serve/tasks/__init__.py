"""All tasks, in one explicit dict: a task is one file beside this one and one entry here."""

from __future__ import annotations

from burnish_serve.errors import InputError
from burnish_serve.tasks import text_classification
from burnish_serve.tasks.task import Answer, Logits, Row, Task

__all__ = ["TASKS", "Answer", "Logits", "Row", "Task", "task_named"]

TASKS: dict[str, Task] = {task.name: task for task in (text_classification.TASK,)}


def task_named(name: str) -> Task:
    """Return the task of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise InputError(f"no task is named {name!r}; the tasks are: {', '.join(sorted(TASKS))}")
    return TASKS[name]
