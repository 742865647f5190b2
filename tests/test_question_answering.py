"""Question answering: answers worked by hand, with and without "no answer"."""

from __future__ import annotations

import math

import pytest

from burnish_serve.errors import InputError
from burnish_serve.tasks import Decoding, Reading
from tiny_questions import QUESTION, TASK, ask, believing, drawn, runner


@pytest.fixture(scope="module")
def path(tiny_bundle):
    return tiny_bundle / "tokenizer.json"


# Worked by hand


def test_the_answer_is_the_likeliest_span(path):
    model = runner(path, believing(path, {"nice": (0.75, 0), "day": (0.25, 0.5), "cold": (0, 0.5)}))
    answer = ask(model)
    assert answer == {"score": pytest.approx(0.375, abs=1e-4), "start": 9, "end": 17, "answer": "nice day"}
    assert {name: type(value) for name, value in answer.items()} == {
        "score": float,
        "start": int,
        "end": int,
        "answer": str,
    }


def test_more_answers_come_as_a_list_best_first(path):
    model = runner(path, believing(path, {"nice": (0.75, 0), "day": (0.25, 0.6), "cold": (0, 0.4)}))
    found = [(one["answer"], pytest.approx(one["score"], abs=1e-4)) for one in ask(model, top_k=4)]
    rest = "day, but the food was cold"
    assert found == [("nice day", 0.45), (f"nice {rest}", 0.3), ("day", 0.15), (rest, 0.1)]
    assert len(ask(model, top_k=None)) > len(ask(model, top_k=20)) == 20


def test_an_answer_has_no_more_tokens_than_it_may(path):
    model = runner(path, believing(path, {"nice": (0.75, 0), "day": (0.25, 0.4), "cold": (0, 0.6)}))
    assert ask(model)["answer"] == "nice day, but the food was cold"  # 8 tokens
    assert ask(model, max_answer_len=8)["answer"] == "nice day, but the food was cold"
    assert ask(model, max_answer_len=7)["answer"] == "nice day"
    assert ask(model, max_answer_len=1)["answer"] == "day"


def test_an_answer_stands_in_the_context_and_does_not_end_before_it_begins(path):
    model = runner(path, believing(path, {"good": (0.9, 0.9), "cold": (0.05, 0.01), "nice": (0.01, 0.05)}))
    assert ask(model)["answer"] == "nice"  # the question's word is none, and "cold … nice" runs backwards
    assert ask(model)["score"] == pytest.approx(0.01 / 0.06 * 0.05 / 0.06, abs=1e-4)  # the question is not counted


def test_answers_are_whole_words(path):
    outputs = believing(path, {"##ing": (0.9, 0.9), "##ly": (0.1, 0.1)})
    row = {"question": "how?", "context": "He was Loveing it,  fun-ly."}
    model = runner(path, outputs)
    assert model(row)[0]["answer"] == "Loveing"
    assert model(row, align_to_words=False)[0]["answer"] == "ing"


def test_equal_texts_are_one_answer_with_the_sum_of_their_scores(path):
    model = runner(path, believing(path, {"film": (0.5, 0.5), "great": (0.2, 0.2)}))
    row = {"question": "what?", "context": "a Film, great, a FILM"}
    found = model(row, top_k=3, max_answer_len=1)[0]
    likely = 0.5 / 1.2
    assert found[0] == {"score": pytest.approx(2 * likely**2, abs=1e-4), "start": 2, "end": 6, "answer": "Film"}
    assert found[1]["answer"] == "great"


def test_a_long_context_is_read_in_windows_and_the_first_of_equal_answers_is_kept(path):
    words = ["nice", *["the"] * 30, "Nice", *["a"] * 30, "day"]
    model = runner(path, believing(path, {"nice": (0.9, 0.9), "day": (0.8, 0.8)}), max_length=16, stride=4)
    row = {"question": "what", "context": " ".join(words)}
    assert len(model.encode([row])[0].windows) == 8
    first, second = model(row, top_k=2)[0]
    assert first == {"score": pytest.approx(2, abs=1e-3), "start": 0, "end": 4, "answer": "nice"}
    assert second["answer"] == "day"
    assert second["end"] == len(row["context"])


@pytest.mark.parametrize("context", ["", "  \n", "\u200d"])
def test_a_context_without_a_token_holds_no_answer(path, context):
    (answer,) = runner(path, drawn(0))({"question": QUESTION, "context": context})
    assert answer == {"score": pytest.approx(1), "start": 0, "end": 0, "answer": ""}


def test_a_text_that_was_cut_is_marked(path):
    row = {"question": "what", "context": "nice film " * 40}
    for top_k in (1, 3):
        (answer,) = runner(path, drawn(0), max_length=16, on_long="truncate")(row, top_k=top_k)
        assert all(one["truncated"] for one in (answer if isinstance(answer, list) else [answer]))
    assert "truncated" not in runner(path, drawn(0), max_length=16)(row)[0]


# No answer


NONE = {"[CLS]": (0.6, 0.6), "nice": (0.4, 0), "day": (0, 0.4)}  # 0.36 for no answer, 0.16 for "nice day"


def test_no_answer_is_given_where_that_is_asked_for_and_likelier(path):
    model = runner(path, believing(path, NONE))
    assert ask(model)["answer"] == "nice day"
    empty = {"score": pytest.approx(0.36, abs=1e-4), "start": 0, "end": 0, "answer": ""}
    assert ask(model, handle_impossible_answer=True) == empty
    assert ask(model, handle_impossible_answer=True, top_k=2)[0] == empty
    less = runner(path, believing(path, {**NONE, "[CLS]": (0.3, 0.3)}))
    assert [one["answer"] for one in ask(less, handle_impossible_answer=True, top_k=2)] == ["nice day", ""]


@pytest.mark.parametrize(("threshold", "answer"), [(None, "nice day"), (0.0, ""), (0.7, ""), (0.9, "nice day")])
def test_a_threshold_says_how_much_likelier_no_answer_must_be(path, threshold, answer):
    assert math.log(0.36 / 0.16) == pytest.approx(0.811, abs=1e-3)
    model = runner(path, believing(path, NONE), decoding=Decoding(no_answer_threshold=threshold))
    assert ask(model)["answer"] == answer
    both = [one["answer"] for one in ask(model, top_k=2, handle_impossible_answer=True)]
    assert both == (["nice day", ""] if threshold == 0.9 else ["", "nice day"])
    assert ask(model, handle_impossible_answer=False)["answer"] == "nice day"


def test_a_threshold_below_0_gives_no_answer_sooner(path):
    outputs = believing(path, {**NONE, "[CLS]": (0.3, 0.3)})  # 0.09 and 0.16: the logarithm of the ratio is -0.575
    for threshold, answer in ((-0.5, "nice day"), (-0.6, "")):
        assert ask(runner(path, outputs, decoding=Decoding(no_answer_threshold=threshold)))["answer"] == answer


def test_no_answer_has_the_least_score_of_all_windows(path):
    model = runner(path, believing(path, {"[CLS]": (0.5, 0.5), "nice": (0.5, 0.5)}), max_length=16, stride=4)
    row = {"question": "what", "context": "nice " + "the " * 40}
    found = model(row, top_k=2, handle_impossible_answer=True)[0]
    assert [(one["answer"], one["score"]) for one in found] == [
        ("nice", pytest.approx(0.25, abs=1e-3)),
        ("", pytest.approx(0.25, abs=1e-3)),
    ]


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be a whole number from 1, not 0"),
        ({"top_k": "threshold"}, "top_k must be a whole number from 1, not 'threshold'"),
        ({"max_answer_len": 0}, "max_answer_len must be a whole number from 1, not 0"),
        ({"reject_below": 0.5}, "question-answering has no option 'reject_below'; it has: top_k, max_answer_len, "),
    ],
)
def test_options_that_cannot_be_meant_are_said(path, options, message):
    with pytest.raises(InputError, match=message):
        ask(runner(path, drawn(0)), **options)


def test_what_an_answer_decides_is_its_place_and_text(path):
    model = runner(path, drawn(3))
    one, several = ask(model), ask(runner(path, drawn(3)), top_k=3)
    assert TASK.predicted(one) == TASK.predicted(several) == (one["start"], one["end"], one["answer"])
    assert TASK.decode([], [], Reading()) == []
