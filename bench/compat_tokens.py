"""The half of `make compat` that opens bundles for tokens and for questions with optimum and transformers 4.57.

It runs in ``.venv-compat`` and imports nothing of Burnish.

>>> for line in compare(task, "fp32", about, tokenizer, rows, options, ""):  # doctest: +SKIP
...     print(line)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LARGEST = 1e-5  # difference of a score in float32
Rows = Sequence[dict[str, str]]


class DifferentError(Exception):
    """What others find is not what Burnish finds; the message is one sentence."""


def encode(tokenizer: Any, row: dict[str, str], task: dict[str, Any]) -> Any:
    """Return the windows of a row as transformers makes them."""
    how = {"max_length": task["max_length"], "return_overflowing_tokens": True}
    if task["on_long"] == "window":
        how["stride"] = task["stride"]
    if "question" in row:
        return tokenizer(row["question"], row["context"], truncation="only_second", **how)
    return tokenizer(row["text"], truncation=True, **how)


def check_ids(tokenizer: Any, rows: Rows, task: dict[str, Any]) -> int:
    """Return how many windows the rows have, once their ids were found to be Burnish's.

    Raises:
        DifferentError: they are not.
    """
    for row, ids in zip(rows, task["ids"], strict=True):
        found = encode(tokenizer, row, task)["input_ids"]
        if found[: len(ids)] != ids or (task["on_long"] == "window" and len(found) != len(ids)):
            raise DifferentError(f"AutoTokenizer makes other ids of {row}: {found}, not {ids}")
    return sum(map(len, task["ids"]))


def compare(
    task: dict[str, Any], name: str, about: Any, tokenizer: Any, rows: Rows, options: Any, said: str
) -> Iterator[str]:
    """Yield a line of the table for each way to open a variant, once it was found to answer the same.

    Args:
        task: what `burnish` wrote down of the bundle.
        name: the variant.
        about: what it wrote down of the variant.
        tokenizer: transformers' tokenizer of the bundle.
        rows: what was asked.
        options: ONNX Runtime's session options; None for its own.
        said: what these are, for the table.

    Raises:
        DifferentError: answers or logits are not the same.
    """
    import transformers
    from optimum import onnxruntime

    questions = task["task"] == "question-answering"
    kind = onnxruntime.ORTModelForQuestionAnswering if questions else onnxruntime.ORTModelForTokenClassification
    where = {"subfolder": "onnx", "file_name": Path(about["file"]).name}
    model = kind.from_pretrained(task["bundle"], session_options=options, **where)
    for flags, answers in about["answers"].items():
        mode = dict(zip(task["modes"][flags][::2], task["modes"][flags][1::2], strict=True))
        if questions:
            pipe = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer)
            found = [pipe(question=row["question"], context=row["context"], **mode) for row in rows]
        else:
            pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, **mode)
            found = [pipe(row["text"]) for row in rows]
        worst, count, whole = 0.0, 0, 0
        for row, windows, mine, others in zip(rows, task["ids"], answers, found, strict=True):
            if not questions and len(windows) > 1:
                continue  # the pipeline cuts these, and Burnish reads them whole
            worst = max(worst, _difference(mine, others, f"{name}, pipeline{said}, {flags}: {row}"))
            count, whole = count + len(_listed(others)), whole + 1
        column = f"pipeline{said}, {flags}"
        yield f"{column:<46}{f'{whole} rows, {count} answers':>24}{shown(worst, 'score'):>24}"
    for size in (1, 8):
        off, windows = _logits_off(model, tokenizer, rows, task, about, size)
        limit = about["tolerance"] if name == "fp32" else 0.0  # of int8 the bits are ours, in any batch
        if not off <= limit:
            raise DifferentError(
                f"{name}, {kind.__name__}{said}, batches of {size}: logits are off by {off:.2g}, over {limit:.2g}"
            )
        column = f"ORTModel{said}, batches of {size}"
        yield f"{column:<46}{f'{windows} windows':>24}{shown(off, 'logit'):>24}"


def _difference(mine: Any, others: Any, where: str) -> float:
    """Return the largest difference of a score between two answers that say the same.

    Raises:
        DifferentError: they do not.
    """
    ours, theirs = _listed(mine), _listed(others)
    if any(one["score"] == 0 for one in theirs):
        # Spans that end before they begin, with which the pipeline fills up a list; Burnish has none.
        theirs = [one for one in theirs if one["score"] > 0 or not one.get("answer", " ")][: len(ours)]
    worst = 0.0
    for one, other in zip(ours, theirs, strict=False):
        worst = max(worst, abs(one["score"] - float(other["score"])))
        if not worst <= LARGEST or {**one, "score": 0} != {**other, "score": 0}:
            raise DifferentError(f"{where}: {other}, not {one}")
    if len(ours) != len(theirs):
        raise DifferentError(f"{where}: {len(theirs)} answers, not {len(ours)}: {theirs}, not {ours}")
    return worst


def _listed(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]


def _logits_off(
    model: Any, tokenizer: Any, rows: Rows, task: dict[str, Any], about: Any, size: int
) -> tuple[float, int]:
    """Return the largest difference of a logit in batches of a size, and how many windows there were."""
    import numpy as np

    windows, wanted = [], []
    for row, outputs in zip(rows, about["logits"], strict=True):
        encoded = encode(tokenizer, row, task)
        names = [name for name in tokenizer.model_input_names if name in encoded]
        windows += [{name: encoded[name][number] for name in names} for number in range(len(outputs))]
        wanted += [np.array(window, dtype=np.float32) for window in outputs]
    off = 0.0
    for start in range(0, len(windows), size):
        batch = tokenizer.pad(windows[start : start + size], return_tensors="pt")
        found = model(**batch)
        logits = found.logits if "logits" in found else np.stack([found.start_logits, found.end_logits], axis=-1)
        for one, other in zip(np.asarray(logits), wanted[start : start + size], strict=True):
            off = max(off, float(np.abs(one[: len(other)] - other).max()))
    return off, len(windows)


def shown(off: float, unit: str) -> str:
    """Return a difference as the table has it."""
    return f"{off:.1g} of a {unit}" if off else "none, to the last bit"
