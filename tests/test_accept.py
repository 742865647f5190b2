"""The long acceptance rows, on real data: `make accept DATA=folder`. `make test` samples each of them on tiny models.

The folder holds ``banking77/train.jsonl`` and ``banking77/test.jsonl`` (rows with text and label).
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import starter

pytestmark = [pytest.mark.slow, pytest.mark.data]
BURNISH = str(Path(sys.executable).with_name("burnish"))
SEEDS = (1, 2, 3)


@pytest.fixture(scope="session")
def banking77():
    folder = Path(os.environ.get("BURNISH_DATA") or "no data") / "banking77"
    if not folder.is_dir():
        pytest.skip("needs labelled data: make accept DATA=folder")
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return Path(os.environ.get("BURNISH_RUNS") or tmp_path_factory.mktemp("runs"))


def burnish(*arguments):
    done = subprocess.run([BURNISH, *map(str, arguments), "--json"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
            burnish("export", checkpoint, "--out", bundle, "--max-drop", "0.01")
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
    from burnish_serve import load
    from burnish_serve.rows import read_rows

    model = load(bundles[1], variant="int8")
    encoded = model.encoder([(row["text"],) for _, row in read_rows(banking77 / "test.jsonl")])
    together = model.run(encoded)
    for i in range(0, len(encoded), 7):
        assert (model.run_batch([encoded[i]])[0] == together[i]).all()


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
