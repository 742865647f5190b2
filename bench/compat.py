"""Bundles opened by others: optimum's ORTModels and transformers' pipelines, in an environment of their own.

optimum-onnx needs a transformers older than ours, so there are two halves. The first runs in ``.venv``: it makes a
bundle for each of three tasks, or takes one, and writes down how it answers. The second runs in ``.venv-compat``,
imports nothing of Burnish, and ends with one sentence at the first answer that is another.

>>> # make compat
>>> # make compat BUNDLE=runs/demo/bundle
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compat_tokens import LARGEST, DifferentError, check_ids, compare, shown

WORK = Path("runs/compat")
EXPECTED = WORK / "expected.json"
# Variants whose answers depend on no neighbours, and which CPUs compute.
VARIANTS = ("fp32", "int8", "int8-7bit")
CALIBRATION_ROWS = 32
# What is asked of each task: the pipeline's arguments and their values, and the flags of `burnish predict` for them.
MODES: dict[str, dict[str, list[Any]]] = {
    "text-classification": {"all": ["top_k", None]},
    "token-classification": {
        "first": ["aggregation_strategy", "first"],
        "simple": ["aggregation_strategy", "simple"],
        "none": ["aggregation_strategy", "none"],
    },
    "question-answering": {"best": [], "3 or none": ["top_k", 3, "handle_impossible_answer", True]},
}
FLAGS = {
    "all": ["--top-k", "all"],
    "first": [],
    "simple": ["--aggregation-strategy", "simple"],
    "none": ["--aggregation-strategy", "none"],
    "best": [],
    "3 or none": ["--top-k", "3", "--handle-impossible-answer"],
}


def ours(bundle: str | None) -> None:
    """Write rows, answers, logits and token ids of a bundle, or of one for each task."""
    import starter
    from burnish_serve import BurnishError, open_bundle
    from burnish_serve.rows import read_rows

    starter.sentences(WORK / "data")
    found = [str(row["text"]) for _, row in read_rows(str(WORK / "data" / "test.jsonl"))]
    task = open_bundle(bundle).manifest.task if bundle else None
    if task and task not in MODES:
        raise BurnishError(f"{bundle} is for {task}, and here is compared what these answer: {', '.join(MODES)}")
    expected = [write_down(name, bundle, found) for name in ([task] if task else MODES)]
    EXPECTED.write_text(json.dumps(expected), encoding="utf-8")


def write_down(task: str, bundle: str | None, sentences: Sequence[str]) -> dict[str, Any]:
    """Return how a bundle answers, in all its variants; one is made where none is given."""
    import compat_rows
    from burnish_serve import load, open_bundle
    from burnish_serve.rows import read_rows
    from burnish_serve.session import DISABLED_OPTIMIZERS, PROVIDERS
    from burnish_serve.writing import RowWriter

    work = WORK / task
    work.mkdir(exist_ok=True)
    rows = compat_rows.rows(task, sentences)
    others = compat_rows.rows(task, sentences[-100:])[-CALIBRATION_ROWS:]
    for name, chosen in (("rows", rows), ("calibration", others)):
        with RowWriter(str(work / f"{name}.jsonl")) as writer:
            writer.write(chosen)
    folder = bundle or make_bundle(task, work)
    manifest = open_bundle(folder).manifest
    expected: dict[str, Any] = {"task": task, "bundle": folder, "rows": str(work / "rows.jsonl"), "variants": {}}
    expected |= {"max_length": manifest.max_length, "stride": manifest.stride, "modes": MODES[task]}
    expected["disabled_optimizers"] = DISABLED_OPTIMIZERS[PROVIDERS["cpu"]]
    for name in [name for name in VARIANTS if name in manifest.variants]:
        answers: dict[str, list[Any]] = {}
        for mode in MODES[task]:
            out = work / f"answers-{name}-{mode.replace(' ', '-')}.jsonl"
            flags = ["--variant", name, "--device", "cpu", *FLAGS[mode], "--out", out]
            burnish("predict", folder, expected["rows"], *flags)
            answers[mode] = [row["answer"] for _, row in read_rows(str(out))]
        model = load(folder, variant=name, device="cpu")
        expected["on_long"] = model.encoder.on_long
        expected["ids"] = [[window.ids.tolist() for window in row.windows] for row in model.encode(rows)]
        variant = manifest.variants[name]
        expected["variants"][name] = {
            "file": variant.file,
            "tolerance": max(variant.golden_tolerance, variant.max_difference),
            "logits": compat_rows.lists(model.logits(rows)),
            "answers": answers,
        }
    return expected


def make_bundle(task: str, work: Path) -> str:
    """Return the folder of a bundle of the starter encoder with a head drawn at random, which needs no training."""
    import compat_rows
    import starter

    checkpoint, bundle = work / "checkpoint", work / "bundle"
    compat_rows.make_checkpoint(task, starter.encoder(), checkpoint)
    quick = ["--calibrate", work / "calibration.jsonl", "--seconds", 0.05]
    length = compat_rows.MAX_LENGTHS[task]
    burnish("export", checkpoint, "--out", bundle, "--task", task, "--max-length", length, *quick, "--overwrite")
    return str(bundle)


def burnish(*arguments: object) -> None:
    """Run a verb; the script ends with one that fails."""
    words = [str(word) for word in arguments]
    print("$ burnish", *words, flush=True)
    done = subprocess.run([Path(sys.executable).with_name("burnish"), *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def theirs() -> None:
    """Open the bundles with transformers and optimum, and compare what they answer with what was written down.

    Raises:
        DifferentError: ids, labels, scores or logits are not the same.
    """
    import onnxruntime
    import transformers

    transformers.logging.set_verbosity_error()
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "optimum-onnx", "onnxruntime"))
    for task in json.loads(EXPECTED.read_text(encoding="utf-8")):
        rows = [json.loads(line) for line in Path(task["rows"]).read_text(encoding="utf-8").splitlines()]
        tokenizer = transformers.AutoTokenizer.from_pretrained(task["bundle"])
        windows = check_ids(tokenizer, rows, task)
        print(f"\n{task['bundle']}, {len(rows)} rows, {versions}\nAutoTokenizer: the same ids, {windows} windows\n")
        print(f"{'variant':<11}{'opened as':<46}{'compared':>24}{'largest difference':>24}")
        like_ours = onnxruntime.SessionOptions()
        disabled = ";".join(task["disabled_optimizers"])
        like_ours.add_session_config_entry("optimization.disable_specified_optimizers", disabled)
        for name, about in task["variants"].items():
            for options, said in ((None, ""), (like_ours, ", our options")):
                if task["task"] == "text-classification":
                    lines = compare_texts(task, name, about, tokenizer, [row["text"] for row in rows], options, said)
                else:
                    lines = compare(task, name, about, tokenizer, rows, options, said)
                for line in lines:
                    print(f"{name:<11}{line}", flush=True)


def compare_texts(
    task: dict[str, Any], name: str, about: Any, tokenizer: Any, texts: Sequence[str], options: Any, said: str
) -> Iterator[str]:
    """Yield a line of the table for each way to open a variant, once it was found to answer the same."""
    import numpy as np
    import transformers
    from optimum.onnxruntime import ORTModelForSequenceClassification

    where = {"subfolder": "onnx", "file_name": Path(about["file"]).name}
    model = ORTModelForSequenceClassification.from_pretrained(task["bundle"], session_options=options, **where)
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    worst = 0.0
    answers = pipe(list(texts), truncation=True, top_k=None, batch_size=8)
    for text, mine, others in zip(texts, about["answers"]["all"], answers, strict=True):
        scores = {answer["label"]: answer["score"] for answer in others}
        off = float(np.max([abs(answer["score"] - scores[answer["label"]]) for answer in mine]))
        worst = max(off, worst)
        if not (off <= LARGEST and mine[0]["label"] == others[0]["label"]):
            raise DifferentError(f"{name}, pipeline{said}: {text!r} is {others[0]}, not {mine[0]}")
    yield f"{'pipeline' + said:<46}{f'{len(texts)} labels':>24}{shown(worst, 'score'):>24}"
    for size in (1, 8):
        found = logits_of(model, tokenizer, texts, size)
        off = float(np.abs(np.array(found) - np.array(about["logits"])).max())  # not a number where one is none
        # A session with other options rounds float32 otherwise. Of int8 the bits are ours, in any batch.
        limit = about["tolerance"] if name == "fp32" else 0.0
        if not off <= limit:
            raise DifferentError(
                f"{name}, ORTModel{said}, batches of {size}: logits are off by {off:.2g}, over {limit:.2g}"
            )
        column = f"ORTModel{said}, batches of {size}"
        yield f"{column:<46}{f'{len(texts)} rows':>24}{shown(off, 'logit'):>24}"


def logits_of(model: Any, tokenizer: Any, texts: Sequence[str], size: int) -> list[list[float]]:
    """Return logits a row, computed in batches of a size, in the order given."""
    found: list[list[float]] = []
    for start in range(0, len(texts), size):
        batch = tokenizer(list(texts[start : start + size]), padding=True, truncation=True, return_tensors="pt")
        found += model(**batch).logits.tolist()
    return found


def main() -> int:
    """Run one half and return the exit status."""
    half, bundle = sys.argv[1], next(iter(sys.argv[2:]), None)
    if half == "theirs":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the pipeline would move the session to a GPU that it was not made for
        try:
            theirs()
        except DifferentError as error:
            print(f"compat: {error}", file=sys.stderr)
            return 1
        except Exception as error:  # what their libraries raise where they cannot open it
            said = str(error).strip().splitlines() or [""]
            print(f"compat: others cannot open the bundle: {type(error).__name__}: {said[0]}", file=sys.stderr)
            return 1
        return 0
    from burnish_serve.cli.verb import explain

    WORK.mkdir(parents=True, exist_ok=True)
    try:
        ours(bundle)
    except (Exception, KeyboardInterrupt) as error:
        message, status = explain(error)
        print(f"compat: {message}", file=sys.stderr)
        return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
