"""Answers field by field as the transformers pipeline of the same checkpoint gives them: 100 texts a task.

Chinese, emoji, combining marks and full-width letters are among them, in a vocabulary that knows some of them. The
checkpoints are read as `burnish export` reads them, and answered by its float32 reference, which graphs are held to.
"""

from __future__ import annotations

import json
import random

import pytest
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from burnish_export.source import read_source, reference_runner
from burnish_export.tokenizer import write_tokenizer
from burnish_serve.errors import InputError
from burnish_serve.tasks.relation_extraction import MARKERS
from burnish_serve.text import encoder_for
from burnish_train.vocabulary import add_tokens
from make_tiny_bundle import tokenizer
from tiny_model import FILLERS, KEYWORDS, VOCABULARY

pytestmark = pytest.mark.usefixtures("one_thread")
STRANGE = [*"北京天气很好", "👍", "👩‍👩‍👧", "é", "Ａ", "ß", "😀!", "  ", "«", "\u200b"]
WORDS = [*FILLERS, *KEYWORDS["music"], *STRANGE]
ONE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"


def texts(count=100, seed=0):
    words = random.Random(seed)
    return [" ".join(words.choices(WORDS, k=words.randint(1, 20))) for _ in range(count)]


def make(folder, problem_type, labels, *, markers=()):
    """Write a checkpoint of random weights as any Hugging Face user has it."""
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate([*VOCABULARY, *"北京天👍é"])}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type=problem_type,
    )
    model = BertForSequenceClassification(config).eval()
    theirs = BertTokenizerFast(tokenizer_object=tokenizer(vocabulary), model_max_length=64)
    add_tokens(theirs, model, markers)
    model.save_pretrained(folder)
    theirs.save_pretrained(folder)
    return folder


def both(folder, task):
    """Return (our runner, the pipeline) of a checkpoint."""
    source = read_source(str(folder), task, None)
    write_tokenizer(source, folder)
    ours = reference_runner(source, encoder_for(source.task, folder / "tokenizer.json", source.network.max_length))
    theirs = transformers.pipeline("text-classification", str(folder), device="cpu")
    return ours, lambda rows, **options: theirs(rows, truncation=True, max_length=64, **options)


def same(ours, theirs):
    """Hold answers against one another: labels, their order, keys, and scores up to rounding."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        rows = [(one, other)] if isinstance(one, dict) else list(zip(one, other, strict=True))
        for mine, their in rows:
            assert list(mine) == list(their) == ["label", "score"]
            assert mine["label"] == their["label"]
            assert mine["score"] == pytest.approx(their["score"], abs=1e-4)


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_multi_label(tmp_path, top_k):
    ours, theirs = both(make(tmp_path, SEVERAL, ("joy", "anger", "fear", "love")), "multi-label-classification")
    expected = theirs(texts(), top_k=top_k)
    same(ours(texts(), top_k=top_k), [row[0] for row in expected] if top_k == 1 else expected)


def test_multi_label_by_default_gives_those_that_reach_one_half(tmp_path):
    ours, theirs = both(make(tmp_path, SEVERAL, ("joy", "anger", "fear", "love")), "multi-label-classification")
    expected = [[one for one in row if one["score"] >= 0.5] for row in theirs(texts(), top_k=None)]
    same(ours(texts()), expected)
    assert [] in expected
    assert {len(row) for row in expected} > {1, 2}


@pytest.mark.parametrize("problem_type", [NUMBER, None])
def test_regression_is_the_raw_number(tmp_path, problem_type):
    folder = make(tmp_path, NUMBER, ("score",))
    ours, theirs = both(folder, "regression")
    same(ours(texts()), theirs(texts()))
    assert min(answer["score"] for answer in ours(texts())) < 0
    path = folder / "config.json"  # one output without a problem's type is what transformers trains as regression
    path.write_text(json.dumps({**json.loads(path.read_text()), "problem_type": problem_type}))
    assert read_source(str(folder), "text-classification", None).task.name == "regression"


def test_pairs(tmp_path):
    ours, theirs = both(make(tmp_path, ONE, ("no", "yes", "maybe")), "text-classification")
    pairs = list(zip(texts(seed=1), texts(seed=2), strict=True))
    expected = theirs([{"text": one, "text_pair": other} for one, other in pairs], top_k=None)
    same(ours([{"text_a": one, "text_b": other} for one, other in pairs], top_k=None), expected)
    same(ours([{"text": one, "text_pair": other} for one, other in pairs], top_k=None), expected)
    turned = ours([{"text_a": other, "text_b": one} for one, other in pairs])
    assert [row["score"] for row in turned] != [row[0]["score"] for row in expected]


def test_pairs_of_a_regression(tmp_path):
    ours, theirs = both(make(tmp_path, NUMBER, ("score",)), "regression")
    pairs = list(zip(texts(seed=1), texts(seed=2), strict=True))
    expected = theirs([{"text": one, "text_pair": other} for one, other in pairs])
    same(ours([{"text_a": one, "text_b": other} for one, other in pairs]), expected)


def test_relations(tmp_path):
    folder = make(tmp_path, ONE, ("A(e1,e2)", "A(e2,e1)", "Other"), markers=MARKERS)
    ours, theirs = both(folder, "relation-extraction")
    words, rows = random.Random(5), []
    for text in texts():
        start, end = sorted(words.sample(range(len(text) + 1), 2))
        rows.append(f"{text[:start]}<e1> {text[start:end]}é </e1> in <e2> 北京 </e2>{text[end:]}")
    same(ours(rows, top_k=None), theirs(rows, top_k=None))
    assert len({answer["score"] for answer in ours(rows)}) > 50


def test_a_checkpoint_of_text_classification_stays_one_and_one_without_markers_is_no_relation_model(tmp_path):
    folder = make(tmp_path, ONE, ("no", "yes"))
    assert read_source(str(folder), "text-classification", None).task.name == "text-classification"
    with pytest.raises(InputError, match="was not trained for relation-extraction: its tokenizer has no token <e1>, "):
        read_source(str(folder), "relation-extraction", None)
    severals = make(tmp_path / "several", SEVERAL, ("no", "yes"))
    assert read_source(str(severals), "text-classification", None).task.name == "multi-label-classification"
