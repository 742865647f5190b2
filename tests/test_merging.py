"""A long text is read in windows and answered without seams, as if the model had read it whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from burnish_serve import TASKS
from burnish_serve.errors import InputError
from burnish_serve.runner import Runner
from burnish_serve.tasks.grouping import STRATEGIES
from burnish_serve.tasks.merging import places
from burnish_serve.text import TextEncoder
from tiny_tagger import BIO, TEXTS, byte_level, wordpiece

TASK = TASKS["token-classification"]
PREFIX, SUFFIX = 1, 1
texts = st.sampled_from(TEXTS) | st.lists(st.sampled_from(TEXTS), max_size=4).map(" ".join)
strides = st.integers(0, 12)


class ByToken:
    """A model that looks at nothing but the token itself."""

    def __init__(self, vocabulary: int) -> None:
        self.table = np.random.default_rng(0).normal(size=(vocabulary, len(BIO))).astype(np.float32) * 3

    def run(self, names, feed):
        return [self.table[feed["input_ids"]]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, made in (("wordpiece", wordpiece()), ("byte-level", byte_level())):
        made.save_pretrained(folder / name)
    return lambda name: folder / name / "tokenizer.json"


def runner(path, max_length, **settings) -> Runner:
    encoder = TextEncoder(path, max_length, offsets=True, **settings)
    session = ByToken(encoder.tokenizer.get_vocab_size())
    names = ("input_ids", "attention_mask")
    return Runner(
        task=TASK, labels=BIO, encoder=encoder, session=session, inputs=names, pad_token_id=0, variant="by token"
    )


@given(text=texts, max_length=st.integers(3, 24), stride=strides)
def test_merged_tokens_are_those_of_the_whole_text_each_once(path, text, max_length, stride):
    (whole,) = TextEncoder(path("wordpiece"), 10_000, offsets=True)([(text,)])[0]
    (windows,) = TextEncoder(path("wordpiece"), max_length, on_long="window", stride=stride, offsets=True)([(text,)])
    assert all(len(window.ids) <= max_length for window in windows)
    at = places(windows)
    for name in ("ids", "offsets", "words"):
        laid = np.concatenate([getattr(window, name) for window in windows])
        np.testing.assert_array_equal(laid[at], getattr(whole, name)[PREFIX : len(whole.ids) - SUFFIX])


@given(text=texts, max_length=st.integers(3, 24), stride=strides)
def test_each_token_is_read_where_most_of_what_surrounds_it_is_seen(path, text, max_length, stride):
    (windows,) = TextEncoder(path("wordpiece"), max_length, on_long="window", stride=stride, offsets=True)([(text,)])
    assume(len(windows) > 1)
    read = [(window.start, len(window.ids) - PREFIX - SUFFIX) for window in windows]
    count = max(start + length for start, length in read)
    starts = np.cumsum([0, *(len(window.ids) for window in windows)])
    for token, place in enumerate(places(windows).tolist()):
        rooms = {}
        for number, (start, length) in enumerate(read):
            if start <= token < start + length:
                left = token - start if start else np.inf
                right = start + length - 1 - token if start + length < count else np.inf
                rooms[number] = min(left, right)
        number = int(np.searchsorted(starts, place, side="right")) - 1
        assert rooms[number] == max(rooms.values())
        assert place - starts[number] - PREFIX == token - read[number][0]


@settings(max_examples=80)
@given(
    text=texts,
    max_length=st.integers(4, 24),
    stride=strides,
    strategy=st.sampled_from(STRATEGIES),
    kind=st.sampled_from(["wordpiece", "byte-level"]),
)
def test_windows_of_any_stride_give_the_answer_of_the_whole_text(path, text, max_length, stride, strategy, kind):
    whole = runner(path(kind), 10_000)([text], aggregation_strategy=strategy)
    parts = runner(path(kind), max_length, on_long="window", stride=stride)([text], aggregation_strategy=strategy)
    assert parts == whole


@given(text=texts, stride=strides, strategy=st.sampled_from(STRATEGIES))
def test_a_text_that_fits_is_answered_alike_whatever_becomes_of_long_ones(path, text, stride, strategy):
    room = len(TextEncoder(path("wordpiece"), 10_000, offsets=True)([(text,)])[0][0].ids)
    answers = [
        runner(path("wordpiece"), max(3, room), on_long=way, stride=stride)([text], aggregation_strategy=strategy)
        for way in ("truncate", "window", "error")
    ]
    assert answers[0] == answers[1] == answers[2]


def test_rows_of_tokens_are_read_in_windows_too(path):
    rows = [{"tokens": ["home", "abcdefgh", "O'Hara's", "wakes", "zq"] * 9}, {"tokens": list("我们在北京工作") * 9}]
    whole = runner(path("wordpiece"), 10_000)(rows)
    assert runner(path("wordpiece"), 12, on_long="window", stride=3)(rows) == whole
    assert len(whole[0]) > 5


def test_a_cut_text_says_so_in_each_span_and_a_long_one_may_be_refused(path):
    text = "home abcdefgh wakes zq " * 9
    (answer,) = runner(path("wordpiece"), 12)([text])
    assert answer
    assert all(one["truncated"] is True for one in answer)
    assert all("truncated" not in one for one in runner(path("wordpiece"), 12, on_long="window")([text])[0])
    with pytest.raises(InputError, match="row 1 has more than 12 tokens"):
        runner(path("wordpiece"), 12, on_long="error")([text])


def test_rows_of_a_batch_do_not_touch_one_another(path):
    model = runner(path("wordpiece"), 12, on_long="window", stride=4)
    together = model(TEXTS)
    assert together == [model([text])[0] for text in TEXTS]
    assert model([]) == []
