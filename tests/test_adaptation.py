"""An encoder adapted to unlabelled texts: it guesses their words better, and is trained and exported further."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from click.testing import CliRunner

from burnish_serve import load
from burnish_serve.cli import main
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.tasks import task_named
from burnish_train import checkpoint
from tiny_model import FILLERS, VOCABULARY, labelled_rows, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = task_named("fill-mask")


@pytest.fixture(scope="module")
def adapted(make_checkpoint, tmp_path_factory):
    """Return an encoder that was adapted to unlabelled texts, and these."""
    rows = tmp_path_factory.mktemp("texts")
    data = write_rows(rows / "texts.jsonl", [{"text": row["text"]} for row in labelled_rows(150)])
    settings = {"pooling": "first", "test": None, "num_train_epochs": 8.0, "learning_rate": 1e-3, "max_length": 24}
    return make_checkpoint(task="fill-mask", train=str(data), **settings), data


def test_adaptation_lowers_the_perplexity_of_texts_that_it_did_not_read(adapted):
    record = json.loads((adapted[0] / "burnish.json").read_text(encoding="utf-8"))
    losses = [point["eval_loss"] for point in record["curve"] if "eval_loss" in point]
    assert losses[-1] < losses[0] - 0.1
    best = max(point["eval_likelihood"] for point in record["curve"] if "eval_likelihood" in point)
    assert record["metrics"]["dev"]["likelihood"] == pytest.approx(best, rel=1e-3)
    dev = [json.loads(line) for line in (adapted[0] / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == ["text"] for row in dev)
    model = checkpoint.load(adapted[0], device="cpu")
    found = evaluate(model, read_labelled(str(adapted[0] / "dev.jsonl"), TASK, ()))
    assert found.metrics == pytest.approx(record["metrics"]["dev"])
    low, high = found.intervals["perplexity"]
    assert low < found.metrics["perplexity"] < high


def test_an_adapted_encoder_is_fine_tuned_like_any_other(adapted, make_checkpoint):
    folder = make_checkpoint(model=str(adapted[0]), pooling="mean", num_train_epochs=4.0)
    before = transformers.AutoModel.from_pretrained(adapted[0]).state_dict()
    start = checkpoint.load_encoder(str(adapted[0]), task_named("text-classification"), ("a", "b"), "mean")[1]
    for name, weight in start.encoder.state_dict().items():
        assert "pooler" in name or torch.equal(weight, before[name])
    assert json.loads((folder / "burnish.json").read_text())["metrics"]["test"]["accuracy"] > 0.9


def test_a_bundle_fills_masks_and_is_scored_and_verified(adapted, make_bundle):
    bundle = make_bundle(adapted[0], precision="fp32")
    model = load(bundle, variant="fp32", device="cpu", threads=1)
    reference = checkpoint.load(adapted[0], device="cpu")
    texts = [" ".join([*FILLERS[i : i + 3], "[MASK]", *FILLERS[i + 3 : i + 5]]) for i in range(40)]
    for one, other in zip(model(texts), reference(texts), strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
    done = CliRunner().invoke(main, ["evaluate", str(bundle), "--data", str(adapted[1]), "--json", "--variant", "fp32"])
    assert done.exit_code == 0, done.output
    found = evaluate(reference, read_labelled(str(adapted[1]), TASK, ()))
    assert json.loads(done.stdout)["metrics"] == pytest.approx(found.metrics, rel=1e-4)
    done = CliRunner().invoke(main, ["verify", str(bundle), "--json"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert all(
        len(row) >= len(VOCABULARY) for variant in manifest["variants"].values() for row in variant["golden_outputs"]
    )
