"""Which words made an answer, by occlusion: held against linear models whose weights are known; and what is refused."""

from __future__ import annotations

import importlib.metadata
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit

from bag import in_table, weights
from burnish_serve import TASKS, explain
from burnish_serve.errors import InputError, MissingExtraError
from burnish_serve.explaining import ROWS, methods
from burnish_serve.explaining.words import words_of
from burnish_serve.tasks import Decoding
from deletion import falls, without
from tiny_model import LABELS

LONG = "music please wake me with a new song or alarm this morning and show the weather - rain again today ?"
SCORE = ("score",)


# Words and where they stand.


PARTS = ["重", "置", "，", "🙂", "👩‍👩‍👧", "e\u0301", "ıß", "wakes", "x,y", " ", "\t", "\u3000", "か"]


@given(st.lists(st.sampled_from(PARTS)))
def test_words_are_where_they_are_said_to_stand(bag, parts):
    text = "".join(parts)
    model = bag()
    (asked,) = model.encode([text], offsets=True)
    words, (tokens,) = words_of(asked)
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    assert "".join("".join(word.text for word in words).split()) == "".join(text.split())
    (window,) = asked.windows
    assert window.ids.tolist() == model.encode([text])[0].windows[0].ids.tolist()
    for (start, end), number, sequence in zip(window.offsets.tolist(), tokens, window.sequences, strict=True):
        assert (number >= 0) == (sequence == 0)
        if number >= 0 and end > start:
            assert words[number].start <= start
            assert end <= words[number].end


def test_offsets_are_code_points_and_chinese_is_read_by_character(bag):
    text = "🙂 重置 my 👩‍👩‍👧 alarm！"
    (found,) = explain(bag(), [text])
    assert [word["word"] for word in found.words] == ["🙂", "重", "置", "my", "👩‍👩‍👧", "alarm！"]
    assert [(word["start"], word["end"]) for word in found.words] == [(0, 1), (2, 3), (3, 4), (5, 7), (8, 13), (14, 20)]
    assert all(text[word["start"] : word["end"]] == word["word"] for word in found.words)


@pytest.mark.parametrize("text", ["", " \n", "\u3000"])
def test_a_text_without_words_has_none(bag, text):
    (found,) = explain(bag(), [text])
    assert found.words == []
    assert without(text, found.words) == text


# Occlusion.


@pytest.mark.parametrize("by", ["mask", "delete", None])
def test_occlusion_is_what_the_tiny_bundle_adds_up(tiny_model, by):
    """Its log-odds are 2.5 times the mean weight of the tokens, less 0.125; no other word weighs anything."""
    text = "A great film, never dull"
    (found,) = explain(tiny_model, [text], by=by)
    own = {"great": 6.34375, "never": -1.28125, "dull": -6.21875}
    tokens, total = 8, sum(own.values())  # five words, a comma, two special tokens
    expected = []
    for word in ("a", "great", "film,", "never", "dull"):
        weight, pieces = own.get(word, 0), 2 if word == "film," else 1
        left = tokens - (0 if by == "mask" else pieces)
        expected.append(2.5 * total / tokens - 2.5 * (total - weight) / left)
    sign = 1 if found.answer["label"] == "positive" else -1
    assert weights(found) == pytest.approx([sign * weight for weight in expected], abs=1e-5)
    assert found.answer == tiny_model(text)[0]


@pytest.mark.parametrize("on_long", ["truncate", "window"])
def test_occlusion_is_a_text_asked_again_with_a_mask_in_it(bag, on_long):
    """What is hidden here by ids is hidden there in the text, and scores are turned into log-odds by SciPy."""
    model = bag(max_length=12, on_long=on_long, decoding=Decoding(temperature=2.5))
    assert len(model.encode([LONG])[0].windows) == (1 if on_long == "truncate" else 3)
    (found,) = explain(model, [LONG], by="mask")
    texts = [LONG[: word["start"]] + "[MASK]" + LONG[word["end"] :] for word in found.words]
    label = found.answer["label"]
    scores = [{one["label"]: one["score"] for one in row}[label] for row in model([LONG, *texts], top_k=None)]
    assert weights(found) == pytest.approx((logit(scores[0]) - logit(scores[1:])).tolist(), abs=1e-4)
    cut = [weight for weight in weights(found) if weight == 0]
    assert len(cut) == (11 if on_long == "truncate" else 0)
    assert found.answer.get("truncated", False) is (on_long == "truncate")


def test_a_word_of_several_pieces_is_hidden_whole(bag):
    model = bag("regression", SCORE)
    (found,) = explain(model, ["wakes alarming, 🙂"])
    assert [word["word"] for word in found.words] == ["wakes", "alarming,", "🙂"]
    assert weights(found) == pytest.approx([in_table(model, word["word"], "score") for word in found.words], abs=1e-5)


def test_each_label_that_is_given_is_explained(bag):
    model = bag("multi-label-classification", decoding=Decoding(thresholds=dict.fromkeys(LABELS, 0.0)))
    found = explain(model, ["wake me", "a song"])
    assert [one.row for one in found] == [0, 0, 0, 1, 1, 1]
    for one, text in zip(found, ["wake me"] * 3 + ["a song"] * 3, strict=True):
        label = one.answer["label"]
        assert weights(one) == pytest.approx([in_table(model, word, label) for word in text.split()], abs=1e-5)
    none = bag("multi-label-classification", decoding=Decoding(thresholds=dict.fromkeys(LABELS, 1.1)))
    assert none("wake me") == [[]]
    assert [one.answer for one in explain(none, ["wake me"])] == none("wake me", top_k=1)


def test_a_label_can_be_asked_for(bag):
    model = bag()
    for label in LABELS:
        (found,) = explain(model, ["wake me now"], label=label)
        assert found.answer in model("wake me now", top_k=None)[0]
        assert found.answer["label"] == label
    assert weights(found) != weights(explain(model, ["wake me now"], label=LABELS[0])[0])


def test_pairs_say_in_which_text_a_word_stands(bag):
    model = bag("regression", SCORE)
    (found,) = explain(model, [{"text_a": "wake me", "text_b": "a song"}])
    told = [(word["column"], word["word"], word["start"]) for word in found.words]
    assert told == [("text_a", "wake", 0), ("text_a", "me", 5), ("text_b", "a", 0), ("text_b", "song", 2)]
    own = [in_table(model, word, "score", second=column == "text_b") for column, word, _ in told]
    assert weights(found) == pytest.approx(own, abs=1e-5)


def test_a_pair_is_read_in_the_windows_of_its_answer(bag):
    model = bag("regression", SCORE, max_length=14, on_long="window")
    row = {"text_a": LONG, "text_b": "a song"}
    plain, (asked,) = model.encode([row])[0], model.encode([row], offsets=True)
    assert [one.ids.tolist() for one in asked.windows] == [one.ids.tolist() for one in plain.windows]
    assert len(asked.windows) == 3


def test_many_rows_keep_their_places(bag):
    texts = [f"wake me {'now ' * number}" for number in range(2 * ROWS + 1)]
    found = explain(bag(max_length=128), texts)
    assert [(one.row, len(one.words)) for one in found] == [(number, number + 2) for number in range(len(texts))]


def test_markers_stay_and_spans_keep_the_texts_own_characters(bag):
    model = bag("relation-extraction")
    spans = {"text": "🙂 rain, wake the city", "e1": [2, 6], "e2": [17, 21]}
    marked = {"text": "🙂 <e1>rain</e1>, wake the <e2> city </e2>"}
    one, other = explain(model, [spans, marked])
    for found in (one, other):
        assert [word["word"] for word in found.words] == ["🙂", "rain", ",", "wake", "the", "city"]
        (text,) = found.texts.values()
        assert [text[word["start"] : word["end"]] for word in found.words] == [word["word"] for word in found.words]
    text = marked["text"]
    texts = [text, *(text[: word["start"]] + "[MASK]" + text[word["end"] :] for word in other.words)]
    scores = [{one["label"]: one["score"] for one in row}[other.answer["label"]] for row in model(texts, top_k=None)]
    hidden = explain(model, [marked], by="mask")[0]
    assert weights(hidden) == pytest.approx((logit(scores[0]) - logit(scores[1:])).tolist(), abs=1e-4)
    assert one.texts["text"] == spans["text"]
    assert weights(one) == pytest.approx(weights(other), abs=1e-5)


def test_of_a_row_that_is_rejected_the_nearest_label_is_explained(bag):
    model = bag(decoding=Decoding(reject_label="none", reject_below=1.0))
    assert model("wake me")[0]["label"] == "none"
    (found,) = explain(model, ["wake me"])
    assert found.answer == model("wake me", reject_below=0.0)[0]


# What is refused.


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.problem_type is None])
def test_other_tasks_are_refused_with_those_that_work(bag, name):
    model = bag()
    model.task = TASKS[name]
    with pytest.raises(InputError) as error:
        explain(model, ["wake me"])
    assert str(error.value) == (
        f"{name} has no score of a text to explain; the tasks that have are: text-classification, "
        "multi-label-classification, regression, relation-extraction"
    )


REFUSED = [
    ({"label": "tea"}, "the label 'tea' is unknown to the model; known are: 'alarm', 'music', 'weather'"),
    ({"method": "shap"}, "no method is named 'shap'; there are: occlusion, gradients"),
    ({"by": "swap"}, "a word is not hidden by 'swap'; there are: delete, mask"),
    ({"method": "gradients", "by": "mask"}, "--by says how occlusion hides a word"),
    ({"steps": 20}, "--steps is for gradients"),
    ({"method": "gradients"}, "a bundle has no gradients: give the checkpoint that it was exported from, or occlusion"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_explained_is_said(bag, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        explain(bag(), ["wake me"], **options)


def test_without_pytorch_the_extra_is_named(bag, monkeypatch):
    class Missing:
        def load(self):
            raise ImportError("No module named 'torch'")

    for found in ([Missing()], []):
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda found=found, **_: found)
        with pytest.raises(MissingExtraError, match=re.escape("pip install 'burnish[train]'")):
            explain(bag(), ["wake me"], method="gradients")


def test_a_mask_must_be_there_to_hide_by_it(bag, monkeypatch):
    def no_mask(tokenizer):
        raise InputError("the tokenizer has no mask token; its special tokens are: <s>")

    monkeypatch.setattr(methods, "special", no_mask)
    assert explain(bag(), ["wake me"])
    with pytest.raises(InputError, match="no mask token"):
        explain(bag(), ["wake me"], by="mask")


# Whether it is true; on real data in tests/test_accept_explain.py.


@pytest.mark.parametrize("by", ["mask", "delete"])
def test_without_its_highest_ranked_words_a_text_says_something_else(tiny_model, by):
    texts = [
        "this was a great film and the music",
        "a dull story , slow in the end",
        "the food is good but not the service",
    ]
    top, by_chance = falls(tiny_model, explain(tiny_model, texts, by=by))
    assert top >= 2 * np.mean(by_chance) > 0
