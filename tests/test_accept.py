"""The long acceptance rows, on real data: `make accept DATA=folder`. `make test` samples each of them on tiny models.

The folder holds ``banking77/`` and ``rotten_tomatoes_mr/`` with ``train.jsonl``, ``test.jsonl`` and, the second, also
``dev.jsonl`` (rows with text and label).
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import starter
from accept import BURNISH, burnish
from burnish_serve import load
from burnish_serve.bundle import open_bundle
from burnish_serve.rows import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.data]
SEEDS = (1, 2, 3)


def train_arguments(data, out, seed):
    model = starter.encoder()
    return [
        "train",
        "train/recipes/intent.toml",
        "--model",
        model,
        "--train",
        data / "train.jsonl",
        "--seed",
        seed,
        "--out",
        out,
    ]


@pytest.fixture(scope="session")
def bundles(banking77, runs):
    for seed in SEEDS:
        checkpoint, bundle = runs / f"bank-{seed}", runs / f"bank-{seed}-bundle"
        if not checkpoint.exists():
            burnish(*train_arguments(banking77, checkpoint, seed))
        if not bundle.exists():
            burnish("export", checkpoint, "--out", bundle)
    return {seed: runs / f"bank-{seed}-bundle" for seed in SEEDS}


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_accuracy_of_the_intent_recipe(bundles, banking77, variant):
    scores = [
        burnish("evaluate", bundle, "--data", banking77 / "test.jsonl", "--variant", variant)["metrics"]["accuracy"]
        for bundle in bundles.values()
    ]
    print(variant, scores, statistics.mean(scores))
    assert statistics.mean(scores) >= 0.930


def test_the_recipe_takes_at_most_twelve_minutes(bundles, runs):
    seconds = [json.loads((runs / f"bank-{seed}" / "burnish.json").read_text())["seconds"] for seed in bundles]
    print("seconds a seed", seconds)
    assert max(seconds) <= 720


def test_int8_is_the_same_alone_and_in_any_batch(bundles, banking77):
    """Every test text alone, in batches of 32 sorted by length, and in batches of 32 at random: not a bit differs."""
    model = load(bundles[1], variant="int8")
    encoded = [row.windows[0] for row in model.encode([row for _, row in read_rows(banking77 / "test.jsonl")])]
    alone = np.concatenate([model.run_batch([row]) for row in encoded])
    orders = {
        "sorted": np.argsort([len(row.ids) for row in encoded], kind="stable"),
        "shuffled": np.random.default_rng(0).permutation(len(encoded)),
    }
    for name, order in orders.items():
        got = np.empty_like(alone)
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            got[places] = model.run_batch([encoded[i] for i in places])
        changes = int((got.argmax(-1) != alone.argmax(-1)).sum())
        print(f"int8 alone and {name}: {changes} of {len(alone)} labels change, by {np.abs(got - alone).max()}")
        assert changes == 0
        assert (got == alone).all()


def test_int8_costs_little_and_is_small(bundles, banking77):
    drops = []
    for bundle in bundles.values():
        assert open_bundle(bundle).manifest.defaults["CPUExecutionProvider"][0] == "int8"
        scores = [
            burnish("evaluate", bundle, "--data", banking77 / "test.jsonl", "--variant", variant)["metrics"]["accuracy"]
            for variant in ("fp32", "int8")
        ]
        sizes = [(bundle / "onnx" / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")]
        drops.append(scores[0] - scores[1])
        print(
            f"{bundle.name}: float32 {scores[0]:.4f}, int8 {scores[1]:.4f}, file {sizes[1] / sizes[0]:.3f} of float32's"
        )
        assert sizes[1] <= 0.30 * sizes[0]
    assert statistics.mean(drops) <= 0.003


@pytest.fixture(scope="session")
def reviews(runs):
    """Return a bundle of rotten_tomatoes_mr and its folder of rows."""
    data = Path(os.environ.get("BURNISH_DATA") or "no data") / "rotten_tomatoes_mr"
    if not data.is_dir():
        pytest.skip("needs labelled data: make accept DATA=folder")
    checkpoint, bundle = runs / "reviews", runs / "reviews-bundle"
    if not checkpoint.exists():
        rows = ["--train", data / "train.jsonl", "--dev", data / "dev.jsonl"]
        burnish("train", "train/recipes/sentiment.toml", "--model", starter.encoder(), *rows, "--out", checkpoint)
    if not bundle.exists():
        burnish("export", checkpoint, "--out", bundle)
    return bundle, data


@pytest.mark.parametrize("which", ["banking77", "reviews"])
def test_the_autopilot_stays_inside_its_budget(which, bundles, banking77, reviews):
    bundle, data = (bundles[1], banking77) if which == "banking77" else reviews
    manifest = open_bundle(bundle).manifest
    path, budget = manifest.provenance["autopilot"], manifest.provenance["max_drop"]
    assert len(path["candidates"]) >= 8
    assert all(one["score"] and one["latency_ms"] for one in path["candidates"])
    default = manifest.defaults["CPUExecutionProvider"][0]
    assert manifest.reference_score - manifest.variants[default].score <= budget
    scores = {
        variant: burnish("evaluate", bundle, "--data", data / "test.jsonl", "--variant", variant)["metrics"]["accuracy"]
        for variant in ("fp32", default)
    }
    print(f"{which}: {path['chosen']} as {default}, dev {manifest.reference_score:.4f} to", end=" ")
    print(f"{manifest.variants[default].score:.4f}, test {scores}")
    assert scores["fp32"] - scores[default] <= budget


PEAK = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import AutoConfig
from burnish_export import calibration
from burnish_export.network import Network
from burnish_serve import load
from burnish_serve.rows import read_rows
bundle, rows, scratch = Path(sys.argv[1]), int(sys.argv[3]), Path(sys.argv[4])
model = load(bundle, variant="fp32")
config = AutoConfig.from_pretrained(bundle)
network = Network.of(torch.nn.Identity(), config, max_length=model.encoder.max_length)
texts = [(row["text"],) for (_, row), _ in zip(read_rows(sys.argv[2]), range(rows))]
windows = [window for (window,) in model.encoder(texts)]
observed = calibration.observe(bundle / "onnx" / "model.onnx", network, windows, scratch)
print(json.dumps([len(texts), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def test_calibration_on_many_rows_takes_little_more_memory(bundles, banking77, tmp_path):
    peaks = {}
    for wanted in (100, 10_000):
        arguments = [str(bundles[1]), str(banking77 / "train.jsonl"), str(wanted), str(tmp_path)]
        done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
        rows, peaks[wanted] = json.loads(done.stdout)
        assert rows == wanted
    print("peak megabytes of a calibration, by rows:", peaks)
    assert peaks[10_000] - peaks[100] <= 100


def test_a_killed_run_resumes_to_the_same_score(banking77, runs):
    """SIGKILL half-way, resume, and compare steps and dev score with the uninterrupted run of the same seed."""
    whole, killed = runs / "kill-whole", runs / "kill-resumed"
    arguments = ["--num-train-epochs", "2", "--save-steps", "50"]
    reference = burnish(*train_arguments(banking77, whole, 1), *arguments)
    command = [BURNISH, *map(str, train_arguments(banking77, killed, 1)), *arguments]
    process = subprocess.Popen(command)
    half = reference["steps"] // 2
    work = killed.with_name(killed.name + ".partial")
    while not any(int(path.parent.name.split("-")[1]) >= half for path in work.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = burnish(*train_arguments(banking77, killed, 1), *arguments, "--resume")
    assert resumed["steps"] == reference["steps"]
    scores = [record["metrics"]["dev"]["accuracy"] for record in (reference, resumed)]
    print("dev accuracy, whole and resumed", scores)
    assert abs(scores[0] - scores[1]) <= 0.005
