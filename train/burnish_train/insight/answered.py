"""Dev rows with what a model made of them, and each of it in words that fit into a table.

>>> dev = Answered.of(target, runner, asked, splits.dev, splits.train)  # doctest: +SKIP
>>> dev.told_right(0), dev.told_answer(0)  # doctest: +SKIP
('card_arrival', 'card_delivery_estimate (0.812)')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish_serve.runner import Runner
from burnish_serve.tasks import Answer, Asked, Outputs, Reading, Task
from burnish_train.data import Example
from burnish_train.targets import Target

# Characters of a text that are shown.
MOST = 300
BEFORE = 100


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Labelled rows, a model's outputs for them, and the answers that these were read as."""

    reading: Reading
    target: Any
    """The `burnish_train.targets.Target` that the model has learned from."""
    train: Sequence[Example]
    """The rows that were learned from; empty where they are not at hand."""
    examples: Sequence[Example]
    asked: Sequence[Asked]
    outputs: Outputs | None
    """None where the task's are too wide to be kept."""
    answers: Sequence[Answer]
    metrics: dict[str, Any]
    """Their scores; none where there are no rows."""

    @classmethod
    def of(
        cls,
        target: Target,
        runner: Runner,
        asked: Sequence[Asked],
        examples: Sequence[Example],
        train: Sequence[Example] = (),
    ) -> Answered:
        """Answer rows, read with what is fitted on them, and score them; the runner reads with it from then on."""
        answers, outputs = target.read(runner, asked, examples)
        rights = [example.right for example in examples]
        return cls(
            reading=runner.reading,
            target=target,
            train=train,
            examples=examples,
            asked=asked,
            outputs=outputs,
            answers=answers,
            metrics=runner.task.score(rights, answers, runner.reading) if rights else {},
        )

    @property
    def task(self) -> Task:
        """Return what was asked."""
        task: Task = self.target.task
        return task

    def told_text(self, number: int) -> str:
        """Return what is read of a row, each of its texts on a line; of a long one what stands around the answer."""
        example = self.examples[number]
        start = 0
        if self.task.name == "question-answering" and example.right:
            start = max(0, example.right[0].start - BEFORE)
        *firsts, last = example.texts
        cut = ("…" if start else "") + last[start : start + MOST] + ("…" if len(last) > start + MOST else "")
        return "\n".join([*(text[:MOST] for text in firsts), cut])

    def told_right(self, number: int) -> str:
        """Return what is right for a row."""
        example = self.examples[number]
        right = example.right
        if self.task.name == "token-classification":
            return _listed([f"{kind}: {example.texts[0][start:end]}" for start, end, kind in right])
        if self.task.name == "question-answering":
            return _listed(list(dict.fromkeys(gold.text for gold in right)), "no answer")
        if isinstance(right, frozenset):
            return _listed(sorted(right))
        return f"{right:g}" if isinstance(right, float) else str(right)

    def told_answer(self, number: int) -> str:
        """Return the answer to a row, with its score."""
        answer = self.answers[number]
        if self.task.name == "token-classification":
            text = self.examples[number].texts[0]
            return _listed(
                [f"{one['entity_group']}: {text[one['start'] : one['end']]} ({one['score']:.3f})" for one in answer]
            )
        if self.task.name == "question-answering":
            return f"{answer['answer'] or 'no answer'} ({answer['score']:.3f})"
        if isinstance(answer, list):
            return _listed([f"{one['label']} ({one['score']:.3f})" for one in answer])
        named = "label" in answer and self.task.problem_type != "regression"
        return f"{answer['label']} ({answer['score']:.3f})" if named else f"{answer['score']:.3f}"


def _listed(texts: Sequence[str], nothing: str = "none") -> str:
    return "\n".join(texts) or nothing
