"""What question answering learns from and fits: tokens of answers, the loss, and the threshold of "no answer"."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve.tasks import Asked
from burnish_serve.tasks.question_answering import Gold
from burnish_train.answers import Answers, positions, threshold
from burnish_train.data import Example
from tiny_questions import CONTEXT, QUESTION, TASK, believing, encoder, runner

pytestmark = pytest.mark.usefixtures("one_thread")


def places(path, text, start, *, max_length=64, stride=0, context=CONTEXT, on_long="window"):
    (windows,) = encoder(path, max_length, stride, on_long)([(QUESTION, context)])
    return [
        found if found is None else [encoder(path).tokenizer.id_to_token(int(window.ids[place])) for place in found]
        for window, found in zip(windows, positions(windows, text, start), strict=True)
    ]


@pytest.fixture(scope="module")
def path(tiny_bundle):
    return tiny_bundle / "tokenizer.json"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("nice", ["nice", "nice"]),
        ("nice day", ["nice", "day"]),
        (" nice day", ["nice", "day"]),
        ("nice ", ["nice", "nice"]),
        ("cold.", ["cold", "."]),
        ("old", ["cold", "cold"]),  # a part of a token is all of it
        ("It was", ["it", "was"]),
        (" ", None),
    ],
)
def test_an_answer_is_its_first_and_last_token(path, text, tokens):
    assert places(path, text, CONTEXT.index(text)) == [tokens]


def test_a_window_without_the_whole_answer_points_at_its_first_token(path):
    # Beside 7 tokens of question and separators 5 of the 12 words fit in each of 4 windows, of which 2 are shared.
    chosen = {"max_length": 12, "stride": 2, "context": "the day was good the film was dull and the food cold"}
    start = chosen["context"].index
    none = ["[CLS]", "[CLS]"]
    assert places(path, "day", start("day"), **chosen) == [["day", "day"], none, none, none]
    assert places(path, "the film", start("the film"), **chosen) == [none, ["the", "film"], none, none]
    assert places(path, "film was", start("film was"), **chosen) == [none, ["film", "was"], none, none]
    assert places(path, "was good the film was dull", start("was g"), **chosen) == [none] * 4
    assert places(path, "food cold", start("food"), **chosen) == [none, none, none, ["food", "cold"]]
    assert places(path, "good the", start("good"), **chosen) == [["good", "the"], ["good", "the"], none, none]


def test_what_was_cut_away_is_not_learned(path):
    chosen = {"max_length": 10, "on_long": "truncate", "context": "the day was good the film was dull"}
    assert places(path, "was good", 8, **chosen) == [["was", "good"]]
    assert places(path, "good the", 12, **chosen) == [["[CLS]", "[CLS]"]]
    assert places(path, "film", 21, **chosen) == [["[CLS]", "[CLS]"]]


def test_a_question_without_an_answer_points_at_the_first_token_and_the_first_of_several_counts(path):
    target = Answers(TASK, None, (), [])
    (windows,) = encoder(path)([(QUESTION, CONTEXT)])
    asked = Asked({}, (QUESTION, CONTEXT), windows)

    def values(*golds):
        return target.values(Example({}, (QUESTION, CONTEXT), golds), asked)

    assert values() == [(0, 0)]
    assert values(Gold("nice", 9), Gold("cold", 36)) == values(Gold("nice", 9)) != values(Gold("cold", 36))
    assert target.stack([(0, 0), (3, 5)], 9).tolist() == [[0, 0], [3, 5]]


@given(st.integers(0, 2**16))
def test_the_loss_is_the_mean_of_two_cross_entropies_each_row_by_itself(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 9, 3)
    logits = torch.from_numpy(random.normal(size=(2, 3, 8)).astype(np.float32))
    labels = torch.tensor([[int(random.integers(0, length)) for _ in range(2)] for length in lengths])
    mask = torch.tensor([[int(i < length) for i in range(8)] for length in lengths])
    outputs = SimpleNamespace(start_logits=logits[0], end_logits=logits[1])
    found = Answers(TASK, None, (), []).loss(outputs, labels, {"attention_mask": mask})
    each = [
        -torch.log_softmax(logits[side, row, :length], -1)[labels[row, side]]
        for row, length in enumerate(lengths)
        for side in range(2)
    ]
    assert float(found) == pytest.approx(float(sum(each) / 6), rel=1e-5)


# The threshold

cases = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=12
)


def total(limit, rows):
    return sum(empty if difference > limit else answered for difference, answered, empty in rows)


@given(cases)
def test_no_other_threshold_scores_better(rows):
    found = threshold(*zip(*rows, strict=True))
    assert total(found, rows) == pytest.approx(max(total(limit / 2, rows) for limit in range(-8, 9)))


@pytest.mark.parametrize(
    ("rows", "limit"),
    [
        ([(-2.0, 1, 0), (-1.0, 1, 0), (3.0, 0, 1)], 1.0),  # half-way
        ([(-2.0, 1, 0), (1.0, 1, 0), (3.0, 0, 1)], 2.0),
        ([(-2.0, 0, 1), (1.0, 0, 1)], -3.0),  # none is ever right
        ([(-2.0, 1, 0), (1.0, 1, 0)], 1.0),  # no answer never is
        ([(-1.0, 0.5, 0.5), (1.0, 0.5, 0.5)], 0.0),  # all the same: nearest to what the pipeline does
    ],
)
def test_thresholds_worked_by_hand(rows, limit):
    assert threshold(*zip(*rows, strict=True)) == limit


def test_the_threshold_is_fitted_on_dev_where_questions_have_no_answer(path):
    chances = {"[CLS]": (0.2, 0.2), "nice": (0.6, 0.6), "cold": (0.25, 0.25)}
    model = runner(path, believing(path, chances))
    rows = [
        {"question": QUESTION, "context": context} for context in ("nice it was", "the cold day", "cold", "cold nice")
    ]
    asked = model.encode(rows)
    outputs = model.outputs(asked)
    golds = [[Gold("nice", 0)], [], [], [Gold("nice", 5)]]
    target = Answers(TASK, None, (), [])
    examples = [Example(row, row.texts, tuple(gold)) for row, gold in zip(asked, golds, strict=True)]
    decoding = target.fit(asked, outputs, examples)
    # "cold" scores 0.25 and no answer 0.2, each squared and scaled alike; "nice" is 9 times as likely as no answer.
    ratios = {"cold": 2 * np.log(0.2 / 0.25), "nice": 2 * np.log(0.2 / 0.6)}
    assert decoding.no_answer_threshold == pytest.approx(sum(ratios.values()) / 2, abs=1e-3)
    model.reading = model.reading.with_decoding(decoding)
    assert [answer["answer"] for answer in model(rows)] == ["nice", "", "", "nice"]
    assert target.fit(asked[:1], outputs[:1], examples[:1]).no_answer_threshold is None
