"""A bundle opened by others: optimum's ORTModel and transformers' pipeline, in an environment of their own.

optimum-onnx needs a transformers older than ours, so there are two halves. The first runs in ``.venv``: it makes a
bundle, or takes one, and writes down how it answers. The second runs in ``.venv-compat``, imports nothing of Burnish,
and ends with one sentence at the first answer that is another.

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

WORK = Path("runs/compat")
ROWS, CALIBRATION, EXPECTED = WORK / "rows.jsonl", WORK / "calibration.jsonl", WORK / "expected.json"
NUM_ROWS, MAX_LENGTH = 100, 64
LABELS = ("anger", "fear", "joy", "sadness", "surprise")
# Variants whose answers depend on no neighbours, and which CPUs compute.
VARIANTS = ("fp32", "int8", "int8-7bit")
LARGEST = 1e-5  # difference of a score in float32
# Empty, blank, not in the vocabulary, accents in both forms, emoji, one word without an end, markup, another script.
ODD = ["", " ", "☃", "naïve café in Zürich", "nai\u0308ve cafe\u0301", "👍🏽 great 😀😀", "x" * 600, "<b>bold</b>\t\n"]
ODD += ["東京タワー"]


class DifferentError(Exception):
    """What others find is not what Burnish finds; the message is one sentence."""


def ours(bundle: str | None) -> None:
    """Write rows, answers, logits and token ids of a bundle, which is made where none is given."""
    import starter
    from burnish_serve import BurnishError, load, open_bundle
    from burnish_serve.rows import RowWriter, read_rows
    from burnish_serve.session import DISABLED_OPTIMIZERS, PROVIDERS

    starter.sentences(WORK / "data")
    found = [str(row["text"]) for _, row in read_rows(str(WORK / "data" / "test.jsonl"))]
    long = [" ".join(found[i : i + 12]) for i in range(0, 120, 12)]
    texts = [*ODD, *long, *found][:NUM_ROWS]
    for path, chosen in ((ROWS, texts), (CALIBRATION, found[-64:])):
        with RowWriter(str(path)) as writer:
            writer.write([{"text": text} for text in chosen])
    folder = bundle or make_bundle()
    manifest = open_bundle(folder).manifest
    if manifest.task != "text-classification":
        raise BurnishError(f"{folder} is for {manifest.task}, and here is compared what text-classification answers")
    expected: dict[str, Any] = {"bundle": folder, "variants": {}}
    expected["disabled_optimizers"] = DISABLED_OPTIMIZERS[PROVIDERS["cpu"]]
    for name in [name for name in VARIANTS if name in manifest.variants]:
        out = WORK / f"answers-{name}.jsonl"
        burnish("predict", folder, ROWS, "--variant", name, "--device", "cpu", "--top-k", "all", "--out", out)
        model = load(folder, variant=name, device="cpu")
        expected["ids"] = [[int(number) for number in row.windows[0].ids] for row in model.encode(texts)]
        variant = manifest.variants[name]
        expected["variants"][name] = {
            "file": variant.file,
            "tolerance": max(variant.golden_tolerance, variant.max_difference),
            "logits": model.logits(texts).tolist(),
            "answers": [row["answer"] for _, row in read_rows(str(out))],
        }
    EXPECTED.write_text(json.dumps(expected), encoding="utf-8")


def make_bundle() -> str:
    """Return the folder of a bundle of the starter encoder with a head drawn at random, which needs no training."""
    import torch
    import transformers

    import starter

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    checkpoint, bundle = WORK / "checkpoint", WORK / "bundle"
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(starter.encoder(), **labels)
    torch.nn.init.normal_(model.classifier.weight, std=0.3)  # scores that spread, as those of a trained head do
    model.save_pretrained(checkpoint)
    transformers.AutoTokenizer.from_pretrained(starter.encoder()).save_pretrained(checkpoint)
    quick = ["--calibrate", CALIBRATION, "--seconds", 0.05, "--max-length", MAX_LENGTH]
    burnish("export", checkpoint, "--out", bundle, "--task", "text-classification", *quick, "--overwrite")
    return str(bundle)


def burnish(*arguments: object) -> None:
    """Run a verb; the script ends with one that fails."""
    words = [str(word) for word in arguments]
    print("$ burnish", *words, flush=True)
    done = subprocess.run([Path(sys.executable).with_name("burnish"), *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def theirs() -> None:
    """Open the bundle with transformers and optimum, and compare what they answer with what was written down.

    Raises:
        DifferentError: ids, labels, scores or logits are not the same.
    """
    import transformers

    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    bundle = expected["bundle"]
    texts = [json.loads(line)["text"] for line in ROWS.read_text(encoding="utf-8").splitlines()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    for text, ids in zip(texts, expected["ids"], strict=True):
        if (found := tokenizer(text, truncation=True)["input_ids"]) != ids:
            raise DifferentError(f"AutoTokenizer makes other ids of {text!r}: {found}, not {ids}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "optimum-onnx", "onnxruntime"))
    print(f"{bundle}, {len(texts)} rows, {versions}\nAutoTokenizer: the same ids for each row\n")
    print(f"{'variant':<11}{'opened as':<40}{'labels':>10}{'largest difference':>30}")
    for name, about in expected["variants"].items():
        for line in compare(bundle, name, about, texts, tokenizer, expected["disabled_optimizers"]):
            print(f"{name:<11}{line}", flush=True)


def compare(
    bundle: str, name: str, about: Any, texts: Sequence[str], tokenizer: Any, disabled: Sequence[str]
) -> Iterator[str]:
    """Yield a line of the table for each way to open a variant, once it was found to answer the same."""
    import numpy as np
    import onnxruntime
    import transformers
    from optimum.onnxruntime import ORTModelForSequenceClassification

    like_ours = onnxruntime.SessionOptions()
    like_ours.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(disabled))
    where = {"subfolder": "onnx", "file_name": Path(about["file"]).name}
    for options, said in ((None, ""), (like_ours, ", our options")):
        model = ORTModelForSequenceClassification.from_pretrained(bundle, session_options=options, **where)
        pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
        worst, same = 0.0, 0
        answers = pipe(list(texts), truncation=True, top_k=None, batch_size=8)
        for text, mine, others in zip(texts, about["answers"], answers, strict=True):
            scores = {answer["label"]: answer["score"] for answer in others}
            off = float(np.max([abs(answer["score"] - scores[answer["label"]]) for answer in mine]))
            worst, equal = max(off, worst), mine[0]["label"] == others[0]["label"]
            same += equal
            if not (off <= LARGEST and equal):
                raise DifferentError(f"{name}, pipeline{said}: {text!r} is {others[0]}, not {mine[0]}")
        yield f"{'pipeline' + said:<40}{f'{same} of {len(texts)}':>10}{shown(worst, 'score'):>30}"
        for size in (1, 8):
            found = logits_of(model, tokenizer, texts, size)
            off = float(np.abs(np.array(found) - np.array(about["logits"])).max())  # not a number where one is none
            # A session with other options rounds float32 otherwise. Of int8 the bits are ours, in any batch.
            limit = about["tolerance"] if name == "fp32" else 0.0
            if not off <= limit:
                raise DifferentError(
                    f"{name}, ORTModel{said}, batches of {size}: logits are off by {off:.2g}, over {limit:.2g}"
                )
            yield f"{f'ORTModel{said}, batches of {size}':<40}{'':>10}{shown(off, 'logit'):>30}"


def shown(off: float, unit: str) -> str:
    """Return a difference as the table has it."""
    return f"{off:.1g} of a {unit}" if off else "none, to the last bit"


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
