"""The long acceptance rows of training's methods, on banking77: `make accept DATA=folder`."""

import copy
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import starter
from accept import BURNISH, burnish
from burnish_serve import load
from burnish_train import checkpoint, train
from burnish_train.config import read_recipe
from training import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.data]
KILLS, KILLS_OF_A_RUN = 20, 5


def intents(data, out, *more):
    recipe = ("train", "train/recipes/intent.toml", "--model", starter.encoder())
    return [*recipe, "--train", data / "train.jsonl", "--out", out, *more]


@pytest.fixture(scope="session")
def few_rows(banking77, tmp_path_factory):
    """Return a file of 1,600 rows, of which 200 steps of 32 learn in four epochs."""
    lines = (banking77 / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text("".join(random.Random(0).sample(lines, 1600)), encoding="utf-8")
    return path


def test_a_run_killed_at_random_moments_ends_with_the_same_weights(banking77, few_rows, tmp_path):
    few = ("--train", few_rows, "--dev-fraction", "0.0", "--num-train-epochs", 4, "--save-steps", 10)
    began = time.monotonic()
    whole = burnish(*intents(banking77, tmp_path / "whole", *few))
    took = time.monotonic() - began
    assert whole["steps"] == 200
    moments, random_moments = [], random.Random(time.time_ns())
    number = 0
    while len(moments) < KILLS:
        number += 1
        out = tmp_path / f"run-{number}"
        arguments = [str(part) for part in intents(banking77, out, *few, "--resume")]
        for _ in range(min(KILLS_OF_A_RUN, KILLS - len(moments))):
            moment = random_moments.uniform(0, 0.5 * took)
            running = subprocess.Popen([BURNISH, *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            time.sleep(moment)
            if running.poll() is None:
                running.send_signal(signal.SIGKILL)
                moments.append(round(moment, 1))
            running.wait()
            if out.exists():
                break
        if not out.exists():
            burnish(*arguments)
        for name in ("model.safetensors", "head.safetensors"):
            ours, theirs = (load_file(tmp_path / folder / name) for folder in (f"run-{number}", "whole"))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), f"run {number}, {name}"
    print(f"{len(moments)} kills of {number} runs after {moments} s, a whole one takes {took:.0f} s: equal bit for bit")


def test_two_processes_score_as_one(banking77, tmp_path):
    """The whole recipe: half-way through, what dropout draws tells more than how many processes learn."""
    settings = ("--seed", 1, "--precision", "fp32")
    one = burnish(*intents(banking77, tmp_path / "one", *settings))
    launch = [str(Path(BURNISH).with_name("torchrun")), "--nproc-per-node", "2", BURNISH]
    arguments = [*intents(banking77, tmp_path / "two", *settings), "--per-device-train-batch-size", 16, "--json"]
    done = subprocess.run([*launch, *map(str, arguments)], check=True, capture_output=True, text=True)
    two = json.loads(done.stdout)
    scores = [record["metrics"]["dev"]["accuracy"] for record in (one, two)]
    print("dev accuracy of one process and of two", scores, "seconds", one["seconds"], two["seconds"])
    assert two["processes"] == 2
    assert two["steps"] == one["steps"]
    assert abs(scores[0] - scores[1]) <= 0.005


def test_lora_learns_little_and_loses_little(banking77, tmp_path):
    full = burnish(*intents(banking77, tmp_path / "full", "--seed", 1))
    settings = ("--lora-rank", 8, "--learning-rate", 2e-3, "--num-train-epochs", 10)
    lora = burnish(*intents(banking77, tmp_path / "lora", "--seed", 1, *settings))
    model = checkpoint.load_model(tmp_path / "lora")
    share = lora["weights_learned"] / sum(weight.numel() for weight in model.parameters())
    scores = [
        burnish("evaluate", tmp_path / name, "--data", banking77 / "test.jsonl")["metrics"]["accuracy"]
        for name in ("full", "lora")
    ]
    print(f"{share:.2%} of the weights learned; accuracy of all and of LoRA", scores, full["seconds"], lora["seconds"])
    assert share <= 0.02
    assert scores[1] >= scores[0] - 0.015


def test_lora_merged_and_exported_answers_as_it_learned(banking77, few_rows, tmp_path):
    unmerged = []

    class Keep(transformers.TrainerCallback):
        def on_train_end(self, *_, model, **__):
            unmerged.append(copy.deepcopy(model).eval())

    config = read_recipe(
        Path("train/recipes/intent.toml"),
        model=str(starter.encoder()),
        train=str(few_rows),
        out=tmp_path / "lora",
        dev_fraction=0.0,
        num_train_epochs=1.0,
        lora_rank=8,
        learning_rate=2e-3,
        device="cpu",
        precision="fp32",
    )
    assert train(config, callbacks=[Keep()])["steps"] == 50
    burnish("export", tmp_path / "lora", "--out", tmp_path / "bundle", "--precision", "fp32")
    texts = [row["text"] for row in rows_of(banking77 / "test.jsonl")[:100]]
    bundle = load(tmp_path / "bundle", variant="fp32", device="cpu")
    ours = bundle.outputs(bundle.examine(texts))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "lora")
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    learned = [weight for name, weight in unmerged[0].named_parameters() if "lora_B" in name]
    assert learned
    assert all(weight.any() for weight in learned)
    with torch.inference_mode():
        wanted = unmerged[0](**tokens).logits.numpy()
        plain = checkpoint.load_model(tmp_path / "lora")(**tokens).logits.numpy()
    apart = [float(np.abs(wanted - other).max()) for other in (ours, plain)]
    largest = np.abs(wanted).max()
    print(f"100 rows, logits up to {largest:.1f}: unmerged and bundle {apart[0]:.1e}, and checkpoint {apart[1]:.1e}")
    assert max(apart) <= 1e-4
