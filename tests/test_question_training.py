"""Question answering from rows to a bundle: a tiny model learns it, and every form of the model gives the same."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from burnish_serve import load
from burnish_serve.bundle import open_bundle
from burnish_serve.cli.evaluate import command as command_evaluate
from burnish_serve.cli.predict import command as command_predict
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.rows import read_rows
from burnish_train import TrainConfig, checkpoint, train
from burnish_train.config import read_recipe
from tiny_model import FILLERS, KEYWORDS, make_classifier, on_one_thread, write_rows
from tiny_questions import TASK

pytestmark = pytest.mark.usefixtures("one_thread")
ANSWERS = [word for words in KEYWORDS.values() for word in words]


def questions(count: int, *, seed: int = 0, longest: int = 12) -> list[dict]:
    """Return questions whose answer is the one word of an intent in the context; each fourth has none."""
    words = random.Random(seed)
    rows = []
    for number in range(count):
        context = words.choices(FILLERS, k=words.randint(3, longest))
        answers = []
        if number % 4:
            place = words.randint(0, len(context))
            context.insert(place, words.choice(ANSWERS))
            answers = [{"text": context[place], "start": len(" ".join([*context[:place], ""]))}]
        rows.append({"question": "what is it", "context": " ".join(context), "answers": answers})
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    write_rows(folder / "train.jsonl", questions(120))
    write_rows(folder / "test.jsonl", questions(48, seed=1))
    return folder


@pytest.fixture(scope="module")
def trained(rows, tiny_encoder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "questions"
    config = {"model": str(tiny_encoder), "task": "question-answering", "train": str(rows / "train.jsonl"), "out": out}
    chosen = {"max_length": 16, "stride": 4, "num_train_epochs": 10, "learning_rate": 3e-3, "dev_fraction": 0.2}
    with on_one_thread():
        train(TrainConfig(**config, **chosen, per_device_train_batch_size=8, device="cpu", early_stopping_patience=0))
    return out


@pytest.fixture(scope="module")
def bundle(trained, make_bundle) -> Path:
    return make_bundle(trained)


def test_a_tiny_model_learns_where_answers_are_and_where_there_is_none(trained, rows):
    record = json.loads((trained / "burnish.json").read_text(encoding="utf-8"))
    assert set(record["metrics"]["dev"]) == {"exact_match", "f1"}
    assert record["decoding"]["no_answer_threshold"] is not None
    assert (record["max_length"], record["stride"], record["labels"]) == (16, 4, [])
    model = checkpoint.load(trained, device="cpu")
    examples = read_labelled(str(rows / "test.jsonl"), TASK, ())
    assert evaluate(model, examples).metrics["f1"] > 0.9
    assert evaluate(model, examples, handle_impossible_answer=False).metrics["f1"] < 0.8, "a fourth has no answer"
    dev = [row for _, row in read_rows(str(trained / "dev.jsonl"))]
    assert set(dev[0]) == {"question", "context", "answers"}


def test_transformers_loads_the_checkpoint_and_gives_the_same_logits(trained, rows):
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(trained).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    asked = [row for _, row in read_rows(str(rows / "test.jsonl"))][:8]
    for row, windows in zip(asked, checkpoint.load(trained, device="cpu").logits(asked), strict=True):
        batch = tokenizer(
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=16,
            stride=4,
            return_overflowing_tokens=True,
            padding=True,
            return_tensors="pt",
        )
        del batch["overflow_to_sample_mapping"]
        with torch.inference_mode():
            found = theirs(**batch)
        for number, window in enumerate(windows):
            wanted = torch.stack([found.start_logits[number], found.end_logits[number]], -1).numpy()
            np.testing.assert_allclose(window, wanted[: len(window)], atol=1e-5)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_answers_are_the_same_alone_in_a_batch_and_shuffled(bundle, variant):
    rows = [{k: row[k] for k in ("question", "context")} for row in questions(32, seed=2, longest=25)]
    model = load(bundle, variant=variant, device="cpu", threads=1, max_batch_tokens=2**16)
    assert max(len(row.windows) for row in model.encode(rows)) > 1
    together = model(rows, top_k=3)
    alone = [model(row, top_k=3)[0] for row in rows]
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = dict(zip(order.tolist(), model([rows[i] for i in order], top_k=3), strict=True))
    for number, answers in enumerate(together):
        for one, other in itertools.chain(
            zip(answers, alone[number], strict=True), zip(answers, shuffled[number], strict=True)
        ):
            assert (one["start"], one["end"], one["answer"]) == (other["start"], other["end"], other["answer"])
            assert one["score"] == (other["score"] if variant == "int8" else pytest.approx(other["score"], abs=1e-4))


def test_the_bundle_answers_as_the_checkpoint_does(bundle, trained, rows):
    asked = [row for _, row in read_rows(str(rows / "test.jsonl"))]
    wanted = checkpoint.load(trained, device="cpu")(asked)
    for one, other in zip(load(bundle, variant="fp32", device="cpu")(asked), wanted, strict=True):
        assert one == {**other, "score": pytest.approx(other["score"], abs=1e-4)}
    manifest = open_bundle(bundle).manifest
    assert (manifest.task, manifest.labels, manifest.outputs) == ("question-answering", (), TASK.outputs)
    assert (manifest.max_length, manifest.stride) == (16, 4)
    assert manifest.decoding.no_answer_threshold is not None
    assert abs(manifest.variants["int8"].score - manifest.reference_score) < 0.1


def test_the_commands_predict_and_evaluate(bundle, rows, tmp_path):
    told = CliRunner().invoke(command_evaluate, [str(bundle), "--data", str(rows / "test.jsonl"), "--json"])
    assert told.exit_code == 0, told.output
    report = json.loads(told.output)
    assert report["metrics"]["f1"] > 0.85
    assert set(report["intervals"]) == {"exact_match", "f1"}
    out = tmp_path / "answers.jsonl"
    flags = ["--top-k", "2", "--max-answer-len", "1", "--no-handle-impossible-answer", "--no-align-to-words"]
    told = CliRunner().invoke(command_predict, [str(bundle), str(rows / "test.jsonl"), *flags, "--out", str(out)])
    assert told.exit_code == 0, told.output
    for _, row in read_rows(str(out)):
        assert 1 <= len(row["answer"]) <= 2
        for answer in row["answer"]:
            assert row["context"][answer["start"] : answer["end"]] == answer["answer"] != ""
    told = CliRunner().invoke(command_predict, [str(bundle), "--text", "great film"])
    assert told.exit_code == 1
    assert "no column 'question'" in told.output


def test_an_encoder_that_was_a_classifier_gets_two_outputs(tmp_path):
    classifier = make_classifier(tmp_path / "classifier")
    assert transformers.AutoConfig.from_pretrained(classifier).num_labels == 3
    _, model = checkpoint.load_encoder(str(classifier), TASK, ())
    assert model.qa_outputs.out_features == model.config.num_labels == 2


def test_the_recipe_is_read():
    recipe = Path(__file__).parents[1] / "train" / "recipes" / "questions.toml"
    config = read_recipe(recipe, model="encoder", train="train.jsonl", out=Path("run"))
    assert (config.task, config.max_length, config.stride) == ("question-answering", 384, 128)
