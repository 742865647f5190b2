"""The long acceptance row of `burnish explain`, on real data: `make accept DATA=folder`.

The folder holds ``banking77/`` with ``train.jsonl`` and ``test.jsonl``. The checkpoint and the bundle are those of
tests/test_accept.py where it ran before in the same folder of runs.
"""

import random
from statistics import mean

import pytest

import starter
from accept import burnish
from burnish_serve import explain, load
from burnish_serve.rows import read_rows
from burnish_train import checkpoint
from deletion import falls

pytestmark = [pytest.mark.slow, pytest.mark.data]
TEXTS = 200


@pytest.fixture(scope="session")
def made(data, runs):
    """Return a checkpoint of banking77 and its bundle."""
    folder, bundle = runs / "bank-1", runs / "bank-1-bundle"
    if not folder.exists():
        rows = ("--train", data / "banking77" / "train.jsonl", "--seed", 1)
        burnish("train", "train/recipes/intent.toml", "--model", starter.encoder(), *rows, "--out", folder)
    if not bundle.exists():
        burnish("export", folder, "--out", bundle)
    return folder, bundle


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bundle", {"by": "mask"}),
        ("bundle", {"by": "delete"}),
        ("checkpoint", {"method": "gradients"}),
        ("checkpoint", {"method": "occlusion"}),
    ],
    ids=str,
)
def test_the_highest_ranked_fifth_of_the_words_carries_the_answer(made, data, name, options):
    model = load(made[1]) if name == "bundle" else checkpoint.load(made[0])
    texts = [row["text"] for _, row in read_rows(data / "banking77" / "test.jsonl")]
    found = explain(model, random.Random(0).sample(texts, TEXTS), **options)
    top, by_chance = falls(model, found)
    told = ", ".join(f"{fall:.3f}" for fall in by_chance)
    times = top / mean(by_chance)
    print(f"{name} {options}: {top:.3f} without the highest-ranked, {told} at random, {times:.2f} times")
    assert top >= 2 * max(by_chance)
