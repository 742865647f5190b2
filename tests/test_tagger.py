"""A tagger on its whole way: training, checkpoint, export, bundle, answers, scores."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import transformers
from click.testing import CliRunner

from burnish_serve import load, open_bundle
from burnish_serve.cli.evaluate import command as command_evaluate
from burnish_serve.cli.predict import command as command_predict
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.tasks import TASKS
from burnish_serve.tasks.grouping import STRATEGIES
from burnish_train import checkpoint
from tiny_model import write_rows
from tiny_tagger import HARD
from tiny_tags import tagged_rows, with_spans

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")
TASK = TASKS["token-classification"]
ROWS = tagged_rows(260)
TRAIN, TEST = ROWS[:180], ROWS[180:]
TEXTS = [with_spans(row)["text"] for row in TEST]
LABELS = ("O", "B-alarm", "I-alarm", "B-music", "I-music", "B-weather", "I-weather")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with rows of tokens and rows of spans, to train on and to test on."""
    folder = tmp_path_factory.mktemp("tagged")
    for name, rows in (("train", TRAIN), ("test", TEST)):
        write_rows(folder / f"{name}-tokens.jsonl", rows)
        write_rows(folder / f"{name}-spans.jsonl", [with_spans(row) for row in rows])
    for name, seed in (("train", 1), ("test", 2)):  # a model this small sees no neighbours: one word begins, one ends
        rows = tagged_rows(180, lengths=(2,), seed=seed)
        write_rows(folder / f"{name}-pairs.jsonl", [with_spans(row) for row in rows])
    return folder


@pytest.fixture(scope="module")
def tagger(make_checkpoint, files):
    """Return a function that trains the tiny encoder on one kind of rows, once for each."""

    def make(kind: str, **changes):
        return make_checkpoint(
            task="token-classification",
            train=str(files / f"train-{kind}.jsonl"),
            test=str(files / f"test-{kind}.jsonl"),
            max_length=32,
            stride=8,
            **{"num_train_epochs": 6.0, "learning_rate": 3e-3, **changes},
        )

    return make


@pytest.fixture(scope="module")
def bundle(make_bundle, tagger):
    """Return the bundle of the checkpoint that was trained on rows of tokens; not to be written to."""
    return make_bundle(tagger("tokens"))


def test_a_checkpoint_of_rows_of_tokens(tagger):
    folder = tagger("tokens")
    record = checkpoint.read_record(folder)
    assert tuple(record["labels"]) == LABELS
    assert record["metrics"]["test"]["f1"] > 0.95
    assert record["metrics"]["test"]["per_class"].keys() == {"alarm", "music", "weather"}
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    assert tuple(model.config.id2label[number] for number in range(len(LABELS))) == LABELS
    kept = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    assert all(set(row) == {"tokens", "tags"} for row in kept)


def test_the_head_starts_from_a_linear_probe(tagger):
    still = checkpoint.read_record(tagger("tokens", learning_rate=0.0))  # the head is all that was ever fitted
    assert still["metrics"]["test"]["f1"] > 0.8


def test_a_head_that_was_trained_is_kept(tagger):
    trained = tagger("tokens")
    again = tagger("tokens", model=str(trained), learning_rate=0.0)
    first, second = (checkpoint.load_model(folder).classifier.weight for folder in (trained, again))
    assert (first == second).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_float32_answers_as_the_pipeline_of_the_checkpoint(bundle, tagger, strategy):
    pipeline = transformers.pipeline("token-classification", str(tagger("tokens")), device="cpu")
    model = load(bundle, variant="fp32", device="cpu")
    texts = [text for text in (*HARD, *TEXTS) if len(model.encode([text])[0].windows) == 1]
    assert len(texts) > 95
    for text, ours in zip(texts, model(texts, aggregation_strategy=strategy), strict=True):
        theirs = pipeline(text, aggregation_strategy=strategy)
        assert [{**one, "score": 0} for one in ours] == [{**one, "score": 0} for one in theirs]
        assert [one["score"] for one in ours] == pytest.approx([float(one["score"]) for one in theirs], abs=1e-4)


def test_int8_answers_alike_alone_in_a_batch_and_shuffled(bundle):
    assert open_bundle(bundle).manifest.variants["int8"].batch_invariant
    model = load(bundle, variant="int8", device="cpu")
    texts = [*HARD, *TEXTS, " ".join(TEXTS)]
    alone = [model([text])[0] for text in texts]
    batches = [answer for start in range(0, len(texts), 32) for answer in model(texts[start : start + 32])]
    assert batches == alone
    order = random.Random(0).sample(range(len(texts)), len(texts))
    assert model([texts[number] for number in order]) == [alone[number] for number in order]


def test_both_kinds_of_rows_score_alike_and_int8_as_float32(bundle, tagger, files):
    for variant in ("fp32", "int8"):
        model = load(bundle, variant=variant, device="cpu")
        found = [
            evaluate(model, read_labelled(str(files / f"test-{kind}.jsonl"), TASK, model.labels))
            for kind in ("tokens", "spans")
        ]
        assert found[0].metrics == found[1].metrics
        assert found[0].metrics["f1"] > 0.95
        assert set(found[0].intervals) == {"precision", "recall", "f1", "f1_macro"}
    assert found[0].metrics == checkpoint.read_record(tagger("tokens"))["metrics"]["test"]


def test_the_verbs_take_the_aggregation(bundle, files, tmp_path):
    out = tmp_path / "answers.jsonl"
    ran = CliRunner().invoke(
        command_predict,
        [str(bundle), str(files / "test-tokens.jsonl"), "--aggregation-strategy", "none", "--out", str(out)],
    )
    assert ran.exit_code == 0, ran.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in TEST]
    assert {key for row in rows for one in row["answer"] for key in one} == {
        *("entity", "score", "index", "word", "start", "end")
    }
    ran = CliRunner().invoke(
        command_evaluate, [str(bundle), "--data", str(files / "test-spans.jsonl"), "--json", "--device", "cpu"]
    )
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["metrics"]["f1"] > 0.95


def test_rows_of_spans_and_bioes_go_the_whole_way(tagger, make_bundle, files):
    folder = tagger("pairs", tag_scheme="BIOES")
    record = checkpoint.read_record(folder)
    assert {"E-music", "S-music"} < set(record["labels"])
    model = load(make_bundle(folder, precision="fp32"), device="cpu")
    found = evaluate(model, read_labelled(str(files / "test-pairs.jsonl"), TASK, model.labels))
    assert found.metrics["f1"] > 0.9
    assert found.metrics == record["metrics"]["test"]
    np.testing.assert_allclose(
        np.concatenate([part for row in model.logits(TEXTS) for part in row]),
        np.concatenate([part for row in checkpoint.load(folder, device="cpu").logits(TEXTS) for part in row]),
        atol=1e-4,
    )
