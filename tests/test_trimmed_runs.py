"""Runs that learn with a trimmed vocabulary: what they keep, that they go on with it, and that they learn the same."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from burnish_serve import TASKS, load
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, checkpoint, train
from make_tiny_bundle import tokenizer
from tiny_model import VOCABULARY, labelled_rows, write_rows
from tiny_tasks import WAYS
from training import furthest_apart, rows_of, weights

pytestmark = pytest.mark.usefixtures("one_thread")
SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
LETTERS = [f"{mark}{letter}" for letter in string.ascii_lowercase for mark in ("", "##")]


@pytest.fixture(scope="module")
def encoder(tiny_encoder, tmp_path_factory) -> Path:
    """Return the tiny encoder with letters among its tokens, so that no word has to stay, and without dropout."""
    folder = tmp_path_factory.mktemp("encoder") / "letters"
    words = list(dict.fromkeys([*VOCABULARY[:5], "unused", *VOCABULARY[5:], *LETTERS]))
    model = transformers.AutoModel.from_pretrained(
        tiny_encoder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    before = model.get_input_embeddings().weight.detach().clone()
    torch.manual_seed(0)
    model.resize_token_embeddings(len(words), mean_resizing=False)
    with torch.no_grad():
        for number, word in enumerate(words):
            if word in VOCABULARY:
                model.get_input_embeddings().weight[number] = before[VOCABULARY.index(word)]
    model.save_pretrained(folder)
    backend = tokenizer({word: number for number, word in enumerate(words)})
    transformers.BertTokenizerFast(tokenizer_object=backend, model_max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture
def config(encoder, train_config, tmp_path):
    """Return a function that makes settings of a short run on rows that do not use all words."""
    rows = labelled_rows(60)
    write_rows(tmp_path / "train.jsonl", rows[:30])
    write_rows(tmp_path / "dev.jsonl", rows[30:])
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "dev")}
    return lambda **changes: train_config(
        **{"model": str(encoder), **files, "test": files["dev"], "num_train_epochs": 1.0, **changes}
    )


def vocabulary(folder: Path) -> dict[str, int]:
    return transformers.AutoTokenizer.from_pretrained(folder).get_vocab()


def words_of(path: str) -> set[str]:
    return {word for row in rows_of(Path(path)) for word in row["text"].split()}


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_run_keeps_the_tokens_of_train_and_of_the_texts_named(config, tmp_path, pooling, make_bundle):
    write_rows(tmp_path / "domain.jsonl", [{"text": "evenings at home"}])
    (tmp_path / "domain.txt").write_text("show me!\n")
    texts = tuple(str(tmp_path / f"domain.{kind}") for kind in ("jsonl", "txt"))
    told: list[str] = []
    settings = config(trim_vocabulary=True, vocabulary_texts=texts, pooling=pooling)
    record = train(settings, log=told.append)
    found = vocabulary(settings.out)
    wanted = SPECIAL | {*LETTERS} | {*".,!?-'"} | words_of(settings.train) | {"evening", "at", "home", "show", "me"}
    assert set(found) == wanted
    assert {*["really", "hey", "morning", "week"]} & words_of(settings.dev) - wanted, "dev rows were not looked at"
    assert f"{len(wanted)} of {record['vocabulary_before']} tokens stay" in told
    assert record["data"]["vocabulary"]["rows"] == 2
    model = transformers.AutoModel.from_pretrained(settings.out)
    assert len(model.get_input_embeddings().weight) == model.config.vocab_size == len(wanted)
    bundle = make_bundle(settings.out)
    assert Tokenizer.from_file(str(bundle / "tokenizer.json")).get_vocab() == found
    asked = ["hey wake me at home", "what a really rainy evening in the week"]
    answers = [load(bundle, variant="fp32", device="cpu")(asked), checkpoint.load(settings.out, device="cpu")(asked)]
    for one, other in zip(*answers, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_a_run_that_goes_on_has_the_same_vocabulary(config, tmp_path):
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                raise RuntimeError

    (tmp_path / "domain.txt").write_text("evening\n")
    settings = {"trim_vocabulary": True, "vocabulary_texts": (str(tmp_path / "domain.txt"),), "save_steps": 2}
    train(config(**settings, out=tmp_path / "whole"))
    with pytest.raises(RuntimeError):
        train(config(**settings), callbacks=[Stop()])
    told: list[str] = []
    train(config(**settings), resume=True, log=told.append)
    assert any("going on from" in line for line in told)
    assert furthest_apart(config().out, tmp_path / "whole") == 0
    assert vocabulary(config().out) == vocabulary(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        train(config(**settings, out=tmp_path / "other"), callbacks=[Stop()])
    (tmp_path / "domain.txt").write_text("evening show\n")
    with pytest.raises(InputError, match="was begun with other settings: rows of vocabulary was"):
        train(config(**settings, out=tmp_path / "other"), resume=True)


@pytest.mark.parametrize("name", [name for name in WAYS if name != "fill-mask"])
def test_every_task_learns_the_same_with_fewer_tokens(name, encoder, tiny_settings, tmp_path):
    way = WAYS[name]
    write_rows(tmp_path / "train.jsonl", way.rows(60, 0))
    write_rows(tmp_path / "test.jsonl", way.rows(20, 1))
    data = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    run = {**tiny_settings, **data, "model": str(encoder), "num_train_epochs": 1.0, "max_length": 32, **way.settings}
    records = []
    for trimmed in ({}, {"trim_vocabulary": True, "vocabulary_texts": (data["train"], data["test"])}):
        out = tmp_path / f"run-{len(records)}"
        records.append(train(TrainConfig(**{**run, "task": way.task, "out": out, **trimmed})))
    assert len(vocabulary(out)) < records[1]["vocabulary_before"]
    scores = [record["metrics"]["test"][TASKS[way.task].metric] for record in records]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3, nan_ok=True)
    for token, number in records[1]["pooling_tokens"].items():
        assert vocabulary(out)[token] == number
    one, other = (weights(tmp_path / f"run-{number}") for number in (0, 1))
    for key, weight in one.items():
        if weight.shape == other[key].shape:
            np.testing.assert_allclose(other[key], weight, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("settings", [{"distill_hidden": 1.0, "distill_attention": 1.0}, {"distill_alpha": 0.9}])
def test_a_student_with_fewer_tokens_learns_the_same_from_its_teacher(config, tmp_path, settings):
    train(config(out=tmp_path / "teacher", num_train_epochs=3.0))
    taught = {"teacher": (str(tmp_path / "teacher"),), "keep_layers": 1, **settings}
    for number, trimmed in enumerate((False, True)):
        train(config(**taught, trim_vocabulary=trimmed, out=tmp_path / f"student-{number}"))
    one, other = (weights(tmp_path / f"student-{number}") for number in (0, 1))
    sizes = [array["bert.embeddings.word_embeddings.weight"].shape[0] for array in (one, other)]
    assert sizes[1] < sizes[0]
    for key in one.keys() - {"bert.embeddings.word_embeddings.weight"}:
        np.testing.assert_allclose(other[key], one[key], atol=1e-4, err_msg=key)


def test_scores_by_token_are_learned_from_a_teacher_of_more_tokens(encoder, tiny_settings, tmp_path):
    way = WAYS["token-classification"]
    write_rows(tmp_path / "train.jsonl", way.rows(60, 0))
    run = {**tiny_settings, "train": str(tmp_path / "train.jsonl"), "test": None, "model": str(encoder)}
    run |= {"task": way.task, "num_train_epochs": 1.0, "max_length": 32}
    train(TrainConfig(**run, out=tmp_path / "teacher"))
    taught = {"teacher": (str(tmp_path / "teacher"),), "distill_alpha": 1.0}
    for number, trimmed in enumerate((False, True)):
        train(TrainConfig(**run, **taught, trim_vocabulary=trimmed, out=tmp_path / f"student-{number}"))
    one, other = (weights(tmp_path / f"student-{number}")["classifier.weight"] for number in (0, 1))
    np.testing.assert_allclose(other, one, atol=1e-4)
    write_rows(tmp_path / "more.jsonl", [*way.rows(60, 0), {"tokens": ["unused"], "tags": ["O"]}])
    more = {"model": str(tmp_path / "student-1"), "train": str(tmp_path / "more.jsonl"), "dev_fraction": 0.0}
    with pytest.raises(InputError, match="has another tokenizer"):
        train(TrainConfig(**{**run, **more}, **taught, out=tmp_path / "other"))


def changed(encoder: Path, folder: Path, *, tokens: int = 0, rows: int = 0, **numbers: int) -> str:
    """Return the folder of an encoder with some more tokens, or rows of its table, and other numbers in its config."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder)
    tokenizer.add_tokens([f"<{number}>" for number in range(tokens)])
    model.resize_token_embeddings(model.config.vocab_size + rows, mean_resizing=False)
    model.config.update(numbers)
    for part in (tokenizer, model):
        part.save_pretrained(folder)
    return str(folder)


def test_a_token_without_a_vector_is_said(config, encoder, tmp_path):
    longer = changed(encoder, tmp_path / "longer", tokens=2)
    with pytest.raises(InputError, match=r"the token '<1>' has the number (\d+), and the model has \d+ word vectors"):
        train(config(model=longer, trim_vocabulary=True))
    assert not config().out.with_name("run.partial").exists()


def test_a_number_in_the_config_that_no_token_has_is_named_no_more(config, encoder, tmp_path):
    spare = transformers.AutoConfig.from_pretrained(encoder).vocab_size + 3
    train(config(model=changed(encoder, tmp_path / "spare", rows=20, eos_token_id=spare), trim_vocabulary=True))
    found = transformers.AutoConfig.from_pretrained(config().out)
    assert found.eos_token_id is None
    assert found.vocab_size == len(vocabulary(config().out))


@pytest.mark.parametrize("name", ["relation-extraction", "question-answering", "token-classification"])
def test_plain_texts_are_looked_at_for_tasks_that_read_more_than_a_text(name, encoder, tiny_settings, tmp_path):
    way = WAYS[name]
    write_rows(tmp_path / "train.jsonl", way.rows(60, 0))
    (tmp_path / "domain.txt").write_text("unused\n\nreally unused\n")
    texts = {"trim_vocabulary": True, "vocabulary_texts": (str(tmp_path / "domain.txt"),)}
    run = {**tiny_settings, "train": str(tmp_path / "train.jsonl"), "test": None, "model": str(encoder), **way.settings}
    run |= {"task": way.task, "num_train_epochs": 0.2, "max_length": 32, **texts, "out": tmp_path / "run"}
    record = train(TrainConfig(**run))
    assert record["data"]["vocabulary"]["rows"] == 2
    assert "unused" in vocabulary(tmp_path / "run")
