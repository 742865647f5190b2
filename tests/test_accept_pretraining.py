"""The long acceptance rows of what is learned from texts alone: `make accept DATA=folder`.

An encoder pretrained from nothing against its own random weights, and the starter encoder adapted to a domain against
itself; each as the mean of three seeds, on the test rows.
"""

import json
import random
from pathlib import Path
from statistics import mean

import pytest

import starter
from accept import burnish
from burnish_serve.rows import read_rows
from burnish_serve.writing import RowWriter

pytestmark = [pytest.mark.slow, pytest.mark.data]
RECIPES = Path("train/recipes")
SEEDS = (1, 2, 3)
POINTS = 0.02
ROWS_A_CLASS = 10
ADAPTATION = ("--max-length", 64)


def trained(out, *arguments):
    """Train into a folder, where that was not done before."""
    if not out.exists():
        burnish("train", *arguments, "--out", out)
    return out


@pytest.fixture(scope="session")
def encoders(data, runs):
    """Return a Chinese encoder of an hour, and the one that it began as."""
    names = ("peoples_daily_ner_zh", "peoples_daily_ner_zh", "chnsenticorp_zh")
    texts = [part for name in names for part in ("--train", data / name / "train.jsonl")]
    untrained = ("--num-train-epochs", 0.001, "--learning-rate", 0, "--max-minutes", 0)
    made = {"pretrained": runs / "encoder-zh", "untrained": runs / "encoder-zh-untrained"}
    for name, options in (("pretrained", ()), ("untrained", untrained)):
        if not made[name].exists():
            burnish("pretrain", RECIPES / "pretrain-zh.toml", *texts, *options, "--out", made[name])
    return made


@pytest.mark.parametrize(
    ("name", "recipe", "flags", "metric", "least", "drop"),
    [
        ("peoples_daily_ner_zh", "entities", ("--max-length", 256, "--num-train-epochs", 10), "f1", 0.65, 0.01),
        ("chnsenticorp_zh", "sentiment", ("--max-length", 160, "--num-train-epochs", 3), "accuracy", 0.85, 0.005),
    ],
    ids=["peoples_daily_ner_zh", "chnsenticorp_zh"],
)
def test_pretraining_pays(encoders, data, runs, name, recipe, flags, metric, least, drop):
    rate = {"entities": 1e-3, "sentiment": 5e-4}[recipe]
    test = data / name / "test.jsonl"
    found = {"pretrained": [], "untrained": [], "int8": []}
    for kind, encoder in encoders.items():
        for seed in SEEDS:
            rows = ("--model", encoder, "--train", data / name / "train.jsonl", "--seed", seed)
            folder = runs / f"{name}-{kind}-{seed}"
            trained(folder, RECIPES / f"{recipe}.toml", *rows, *flags, "--learning-rate", rate)
            if kind == "untrained":
                found[kind].append(burnish("evaluate", folder, "--data", test)["metrics"][metric])
                continue
            bundle = runs / f"{folder.name}-bundle"
            if not bundle.exists():
                burnish("export", folder, "--out", bundle, "--max-drop", drop)
            for variant, told in (("fp32", kind), ("int8", "int8")):
                scores = burnish("evaluate", bundle, "--data", test, "--variant", variant)
                found[told].append(scores["metrics"][metric])
    print(f"{name} {metric}: {json.dumps(found)}")
    assert mean(found["pretrained"]) >= least
    assert mean(found["int8"]) >= least
    assert mean(found["pretrained"]) >= mean(found["untrained"]) + POINTS
    assert mean(found["pretrained"]) - mean(found["int8"]) <= drop


@pytest.fixture(scope="session")
def few(data, runs):
    """Return a folder with the texts of clinc150 without labels, and a few labelled rows for each seed."""
    folder = runs / "few"
    folder.mkdir(exist_ok=True)
    rows = {
        part: [row for _, row in read_rows(data / "clinc150" / f"{part}.jsonl")] for part in ("train", "dev", "test")
    }
    inside = {part: [row for row in some if row["label"] != "oos"] for part, some in rows.items()}
    files = {"texts": [{"text": row["text"]} for row in rows["train"]], "dev": inside["dev"], "test": inside["test"]}
    labels = sorted({row["label"] for row in inside["train"]})
    for seed in SEEDS:
        chance = random.Random(seed)
        of = {label: [row for row in inside["train"] if row["label"] == label] for label in labels}
        files[f"train{seed}"] = [row for label in labels for row in chance.sample(of[label], ROWS_A_CLASS)]
    for name, some in files.items():
        with RowWriter(folder / f"{name}.jsonl") as writer:
            writer.write(some)
    return folder


def test_adaptation_pays(few, runs):
    encoder = starter.encoder()
    texts = ("--train", few / "texts.jsonl", *ADAPTATION)
    adapted = trained(runs / "adapted", RECIPES / "adapt.toml", "--model", encoder, *texts)
    found = {"plain": [], "adapted": []}
    for name, model in (("plain", encoder), ("adapted", adapted)):
        for seed in SEEDS:
            rows = ("--train", few / f"train{seed}.jsonl", "--dev", few / "dev.jsonl", "--seed", seed)
            folder = trained(runs / f"few-{name}-{seed}", RECIPES / "intent.toml", "--model", model, *rows)
            found[name].append(burnish("evaluate", folder, "--data", few / "test.jsonl")["metrics"]["accuracy"])
    print(f"clinc150, {ROWS_A_CLASS} rows a class: {json.dumps(found)}")
    assert mean(found["adapted"]) >= mean(found["plain"]) + POINTS
