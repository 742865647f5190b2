"""Vectors of sentences: PyTorch's own mean of its own tokens, a plain encoder exported, and pairs by their cosine."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import spearmanr

from burnish_export import ExportConfig, export
from burnish_serve import load
from burnish_serve.errors import InputError
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_train import TrainConfig, train
from tiny_model import FILLERS, write_rows
from tiny_tasks import alike

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")
STRANGE = ["北京", "👍", "👩‍👩‍👧", "é", "Ａ", "", "  "]


def texts(count=100, most=20):
    words = random.Random(0)
    return [" ".join(words.choices([*FILLERS, *STRANGE], k=words.randint(0, most))) for _ in range(count)]


def in_torch(folder, rows, length=32):
    """Return unit vectors as sentence-transformers makes them: the mean over the tokens that are real, by hand."""
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoModel.from_pretrained(folder),
    )
    vectors = []
    with torch.inference_mode():
        for row in rows:
            batch = tokenizer([row], truncation=True, max_length=length, return_tensors="pt", padding=False)
            vectors.append(torch.nn.functional.normalize(model.eval()(**batch).last_hidden_state[0].mean(0), dim=0))
    return torch.stack(vectors).numpy()


@pytest.fixture(scope="module")
def encoder_bundle(tiny_encoder, tmp_path_factory):
    """Return the bundle of a plain encoder, which nobody trained: with rows to calibrate on and none to score."""
    folder = tmp_path_factory.mktemp("vectors")
    rows = write_rows(folder / "rows.jsonl", [{"text": text} for text in texts()])
    settings = {"task": "feature-extraction", "calibrate": str(rows), "seconds": 0.01}
    export(ExportConfig(checkpoint=str(tiny_encoder), out=folder / "bundle", **settings))
    return folder / "bundle"


def test_vectors_are_pytorchs(encoder_bundle, tiny_encoder):
    vectors = load(encoder_bundle, variant="fp32")(texts())
    assert all(type(number) is float for vector in vectors for number in vector)
    np.testing.assert_allclose(vectors, in_torch(tiny_encoder, texts()), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_int8_of_an_encoder_is_near_and_not_the_default_since_nothing_says_what_it_costs(encoder_bundle, tiny_encoder):
    model = load(encoder_bundle)
    assert model.variant == "fp32"
    found = np.array(load(encoder_bundle, variant="int8")(texts()))
    cosines = (found * in_torch(tiny_encoder, texts())).sum(1)
    assert 0.99 < cosines.min() < 1 - 1e-7


def test_an_encoder_without_rows_is_float32_and_says_why(tiny_encoder, tmp_path):
    manifest = export(ExportConfig(checkpoint=str(tiny_encoder), out=tmp_path / "b", task="feature-extraction"))
    assert set(manifest.variants) == {"fp32"}
    (warning,) = manifest.warnings
    assert warning.startswith("there were no rows to calibrate int8 on")
    assert manifest.labels == ()


def test_a_pair_is_answered_with_its_cosine(encoder_bundle, tiny_encoder):
    model = load(encoder_bundle, variant="fp32")
    pairs = list(zip(texts()[:50], texts()[50:], strict=True))
    expected = (in_torch(tiny_encoder, texts()[:50]) * in_torch(tiny_encoder, texts()[50:])).sum(1)
    for names in (("text_a", "text_b"), ("text", "text_pair")):
        answers = model([dict(zip(names, pair, strict=True)) for pair in pairs])
        assert [list(answer) for answer in answers] == [["score"]] * 50
        np.testing.assert_allclose([answer["score"] for answer in answers], expected, atol=1e-5)


def test_single_texts_and_pairs_go_together(encoder_bundle):
    model = load(encoder_bundle, variant="int8")
    rows = ["the city", {"text_a": "new music", "text_b": "the song " * 9}, {"text": "you"}]
    together = model(rows)
    assert together == [model([row])[0] for row in rows]
    assert isinstance(together[1], dict)


def test_windows_of_a_long_text_are_weighed_by_their_tokens(encoder_bundle, tiny_encoder):
    words = random.Random(1).choices(FILLERS, k=70)
    (vector,) = load(encoder_bundle, variant="fp32", on_long="window")([" ".join(words)])
    stride, total = 16, 0
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(tiny_encoder), None
    model = transformers.AutoModel.from_pretrained(tiny_encoder).eval()
    for start in (0, 14, 28, 42):  # 30 words a window beside two special tokens, of which 16 are the next one's too
        part = " ".join(words[start : start + 30])
        with torch.inference_mode():
            batch = tokenizer(part, truncation=True, max_length=32, return_tensors="pt", padding=False)
            total = total + model(**batch).last_hidden_state[0].sum(0).numpy()
    assert load(encoder_bundle).encoder.stride == stride
    np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-5)


def test_a_cut_text_has_no_place_in_a_list_of_numbers_so_the_row_says_so(encoder_bundle, run_burnish, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "the city"}, {"text": "you " * 40}])
    lines = run_burnish("predict", encoder_bundle, path).stdout.splitlines()
    short, long = map(json.loads, lines)
    assert "truncated" not in short
    assert long["truncated"] is True
    assert len(long["answer"]) == len(short["answer"]) == 32
    pair = {"text_a": "you " * 40, "text_b": "the city"}
    (answer,) = load(encoder_bundle)([pair])
    assert answer["truncated"] is True


def test_training_on_pairs_brings_those_that_are_alike_together(tiny_settings, tmp_path):
    data = {"train": alike(200, 0), "dev": alike(60, 1), "test": alike(100, 2)}
    paths = {split: str(write_rows(tmp_path / f"{split}.jsonl", rows)) for split, rows in data.items()}
    settings = {**tiny_settings, **paths, "task": "feature-extraction", "max_length": 32, "num_train_epochs": 5.0}

    def score(folder):
        rows = data["test"]
        first, second = (in_torch(folder, [row[name] for row in rows]) for name in ("text_a", "text_b"))
        return spearmanr([row["score"] for row in rows], (first * second).sum(1)).statistic

    record = train(TrainConfig(**{**settings, "out": tmp_path / "run"}))
    assert record["metrics"]["test"]["spearman"] == pytest.approx(score(tmp_path / "run"), abs=1e-6)
    assert score(settings["model"]) < 0.5 < 0.75 < score(tmp_path / "run")
    assert record["labels"] == []


def test_vectors_of_single_texts_cannot_be_scored(encoder_bundle, tmp_path):
    model = load(encoder_bundle)
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "the city", "score": 1}])
    with pytest.raises(InputError, match="vectors are scored on pairs: rows with text_a, text_b and score"):
        evaluate(model, read_labelled(str(path), model.task, ()))


def test_an_encoder_that_says_how_much_it_reads_is_believed(tiny_encoder, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": false}')
    settings = {"task": "feature-extraction", "precision": "fp32"}
    export(ExportConfig(checkpoint=str(folder), out=tmp_path / "bundle", **settings))
    long = "the city we know " * 9
    (answer,) = load(tmp_path / "bundle")([long])
    np.testing.assert_allclose(answer, in_torch(folder, [long], length=20)[0], atol=1e-5)
