"""The long acceptance rows of every task on real data: `make accept DATA=folder`.

The folder holds one folder for each set of rows, with ``train.jsonl``, ``test.jsonl`` and, for some, ``dev.jsonl``.
Each recipe is trained, exported with the default settings, and scored once on the test rows by ``burnish evaluate``.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest

import starter
from accept import burnish
from burnish_serve import load
from burnish_serve.bundle import open_bundle
from burnish_serve.rows import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.data]
MOST_SECONDS = 1200


@dataclass(frozen=True)
class Row:
    """One line of the table in docs/results.md."""

    data: str
    recipe: str
    least: dict[str, float]
    """The metrics of the test rows that are wanted."""
    flags: tuple[str, ...] = ()
    drop: float = 0.005
    """What int8 may lose of the first of them."""
    seeds: tuple[int, ...] = ()
    """Of the runs whose weights are averaged, where it is more than one run."""
    greedy: bool = False
    """Whether only those are averaged that help on dev rows."""


ROWS = [
    Row(
        "clinc150",
        "intent",
        {"accuracy_in_scope": 0.94, "recall_rejected": 0.60},
        ("--reject-label", "oos", "--learning-rate", "3e-4", "--num-train-epochs", "2"),
    ),
    Row(
        "rotten_tomatoes_mr",
        "sentiment",
        {"accuracy": 0.86},
        ("--learning-rate", "1e-4", "--num-train-epochs", "3", "--adversarial-epsilon", "0.3"),
        seeds=(1, 2),
        greedy=True,
    ),
    Row("goemotions", "emotions", {"f1_macro": 0.40}),
    Row("stsb_en", "similarity", {"spearman": 0.85}),
    Row("semeval2010_task8", "relation", {"f1_official": 0.82}),
    Row(
        "wnut17",
        "entities",
        {"f1": 0.42},
        ("--num-train-epochs", "5", "--no-label-inner-words"),
        drop=0.01,
        seeds=(1, 2, 3, 4),
    ),
    Row("restaurant8k_spans", "entities", {"f1": 0.93}, drop=0.01),
    Row("qamr_en", "questions", {"f1": 0.80}, drop=0.01),
]


@pytest.fixture(scope="session", params=ROWS, ids=lambda row: row.data)
def made(request, data, runs):
    """Return a row of the table with its checkpoint, its bundle and its test rows."""
    row: Row = request.param
    folder, checkpoint, bundle = data / row.data, runs / row.data, runs / f"{row.data}-bundle"
    dev = ["--dev", folder / "dev.jsonl"] if (folder / "dev.jsonl").is_file() else []
    rows = ["--train", folder / "train.jsonl", *dev]
    if not checkpoint.exists():
        recipe = f"train/recipes/{row.recipe}.toml"
        settings = ("train", recipe, "--model", starter.encoder(), *rows, *row.flags)
        members = {seed: runs / f"{row.data}-{seed}" for seed in row.seeds}
        for seed, member in members.items():
            if not member.exists():
                burnish(*settings, "--seed", seed, "--out", member)
        soup = ("soup", *members.values(), *(["--greedy"] if row.greedy else []))
        burnish(*(soup if members else settings), "--out", checkpoint)
    if not bundle.exists():
        burnish("export", checkpoint, "--out", bundle, *(["--max-drop", row.drop] if row.drop > 0.005 else []))
    return row, checkpoint, bundle, folder / "test.jsonl"


def scores(bundle, test, variant, *options):
    return burnish("evaluate", bundle, "--data", test, "--variant", variant, *options)["metrics"]


def test_scores_of_the_recipe(made):
    row, checkpoint, bundle, test = made
    seconds = json.loads((checkpoint / "burnish.json").read_text(encoding="utf-8"))["seconds"]
    manifest = open_bundle(bundle).manifest
    found = {variant: scores(bundle, test, variant) for variant in ("fp32", "int8")}
    for variant, metrics in found.items():
        told = {name: round(value, 4) for name, value in metrics.items() if isinstance(value, float)}
        print(f"{row.data} {variant}: {told}; {seconds} s of training, {manifest.provenance['seconds']} s of export")
    print(f"{row.data} default: {manifest.defaults['CPUExecutionProvider']}; {manifest.provenance['default_because']}")
    assert seconds <= MOST_SECONDS
    for metrics in found.values():
        for name, least in row.least.items():
            assert metrics[name] >= least
    first = next(iter(row.least))
    assert found["fp32"][first] - found["int8"][first] <= row.drop


@pytest.mark.parametrize(
    "made", [row for row in ROWS if "--reject-label" in row.flags], ids=["clinc150"], indirect=True
)
def test_the_intent_recipe_without_rejection(made):
    _, _, bundle, test = made
    for variant in ("fp32", "int8"):
        metrics = scores(bundle, test, variant, "--reject-below", "0")
        print(f"clinc150 {variant} without rejection: {metrics['accuracy_in_scope']:.4f}")
        assert metrics["accuracy_in_scope"] >= 0.955


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_answers_do_not_depend_on_the_batch(made, variant):
    """200 texts alone, in batches of 32, and in another order."""
    row, _, bundle, test = made
    model = load(bundle, variant=variant)
    rows = [asked for _, asked in read_rows(test)][:200]
    alone = [model([asked])[0] for asked in rows]
    together = [answer for start in range(0, len(rows), 32) for answer in model(rows[start : start + 32])]
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = dict(zip(order.tolist(), model([rows[i] for i in order]), strict=True))
    for number, answer in enumerate(alone):
        for other in (together[number], shuffled[number]):
            if variant == "int8":
                assert other == answer
            else:
                assert model.task.predicted(other) == model.task.predicted(answer)
                np.testing.assert_allclose(numbers(other), numbers(answer), atol=1e-4)
    print(f"{row.data} {variant}: 200 answers, the same alone, in batches of 32 and shuffled")


def numbers(answer):
    """Return the scores in an answer, or the vector that it is."""
    if isinstance(answer, dict):
        return [value for name, value in answer.items() if name == "score"]
    return [number for part in answer for number in (numbers(part) if isinstance(part, dict) else [part])]
