"""Spans must be those of transformers' pipeline, field by field, and must point into the user's own text."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish_serve import TASKS
from burnish_serve.errors import InputError
from burnish_serve.runner import Runner
from burnish_serve.tasks.grouping import BY_WORD, STRATEGIES
from burnish_serve.text import encoder_for
from burnish_train.checkpoint import TorchSession, input_names
from tiny_tagger import BIO, CHINESE, TEXTS, byte_level, make_tagger, wordpiece

TASK = TASKS["token-classification"]
NO_WORDS = "ignore:Tokenizer does not support real words"  # the pipeline's own, once for each byte-level token
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings(NO_WORDS)]
KINDS = {
    "wordpiece": wordpiece,
    "byte-level": byte_level,
    "byte-level, spaces kept": lambda: byte_level(trim_offsets=False),
}


@pytest.fixture(scope="module")
def taggers(tmp_path_factory):
    """Return for each tokenizer and tuple of labels our runner of a random model, and the pipeline of the same."""
    made = {}

    def make(kind: str, labels: tuple[str, ...] = BIO):
        if (kind, labels) not in made:
            folder = make_tagger(tmp_path_factory.mktemp("tagger"), KINDS[kind](), labels=labels)
            pipeline = transformers.pipeline("token-classification", str(folder), device="cpu")
            model = pipeline.model
            encoder = encoder_for(TASK, folder / "tokenizer.json", 512, 64)
            ours = Runner(
                task=TASK,
                labels=labels,
                encoder=encoder,
                session=TorchSession(model),
                inputs=input_names(model.config),
                pad_token_id=model.config.pad_token_id,
                variant="pytorch",
            )
            made[kind, labels] = ours, pipeline
        return made[kind, labels]

    return make


def same(ours: list[dict], theirs: list[dict]) -> None:
    """Hold a row's answer against the pipeline's: keys in order, types and values, and scores to 1e-4."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one) == list(other)
        assert {**one, "score": 0} == {**other, "score": 0}
        assert one["score"] == pytest.approx(float(other["score"]), abs=1e-4)
        assert {type(one[key]) for key in ("start", "end")} == {int}
        assert type(one["score"]) is float


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_transformers_pipeline(taggers, kind, strategy):
    model, pipeline = taggers(kind)
    assert len(TEXTS) > 120
    ours = model(TEXTS, aggregation_strategy=strategy)
    for text, answer in zip(TEXTS, ours, strict=True):
        same(answer, pipeline(text, aggregation_strategy=strategy))
        for one in answer:
            assert 0 <= one["start"] <= one["end"] <= len(text)
    assert sum(map(len, ours)) > 300, "is anything found?"


@pytest.mark.parametrize(
    "labels",
    [("O", "PER", "LOC"), ("B-PER", "I-PER", "I-LOC"), ("LABEL_0", "X-a", "E-a", "O"), ("S-a", "E-a", "PER", "I-a")],
)
def test_other_labels_are_grouped_as_the_pipeline_groups_them(taggers, labels):
    model, pipeline = taggers("wordpiece", labels)
    for strategy in STRATEGIES:
        for text, answer in zip(TEXTS[:40], model(TEXTS[:40], aggregation_strategy=strategy), strict=True):
            same(answer, pipeline(text, aggregation_strategy=strategy))


pieces = st.sampled_from(
    ["home", "Wakes", "abc", "我", "北", "e\u0301", "👍🏽", "👨‍👩‍👧", "𠮷", "Ａ", "ﬁ", "'s", "zq", "\u200b"]
)
unicode_texts = st.text(max_size=30) | st.lists(
    pieces | st.sampled_from([" ", "\n", "\t", "\u3000", "-", ","]), max_size=14
).map("".join)


@settings(max_examples=150)
@given(text=unicode_texts, strategy=st.sampled_from(STRATEGIES), kind=st.sampled_from(list(KINDS)))
def test_offsets_index_the_users_own_text(taggers, text, strategy, kind):
    model, pipeline = taggers(kind)
    (answer,) = model([text], aggregation_strategy=strategy)
    same(answer, pipeline(text, aggregation_strategy=strategy))
    for one in answer:
        assert 0 <= one["start"] <= one["end"] <= len(text)


words = st.sampled_from(["home", "Wakes", "abcdefgh", "zebra", "raining", "the", "café", "北"])


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(tokens=st.lists(words, min_size=1, max_size=12).filter(lambda some: set(some) - {"北"}))
def test_a_row_of_tokens_is_answered_as_the_pipeline_answers_one_split_into_words(taggers, tokens, strategy):
    model, pipeline = taggers("wordpiece")
    (answer,) = model([{"tokens": tokens}], aggregation_strategy=strategy)
    (theirs,) = pipeline([tokens], is_split_into_words=True, delimiter=" ", aggregation_strategy=strategy)
    same(answer, theirs)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(tokens=st.lists(st.sampled_from(CHINESE), min_size=1, max_size=20).filter(lambda some: set(some) - set("，。")))
def test_chinese_characters_are_joined_without_spaces(taggers, tokens, strategy):
    model, pipeline = taggers("wordpiece")
    (answer,) = model([{"tokens": tokens}], aggregation_strategy=strategy)
    (theirs,) = pipeline([tokens], is_split_into_words=True, delimiter="", aggregation_strategy=strategy)
    same(answer, theirs)
    assert answer == model(["".join(tokens)], aggregation_strategy=strategy)[0]


@pytest.mark.parametrize("strategy", BY_WORD)
@given(tokens=st.lists(st.sampled_from(["@home", "O'Hara's", "abc-def", "\ufe0fhome\u200b", "we", "..."]), min_size=1))
def test_spans_of_a_row_of_tokens_are_whole_tokens(taggers, tokens, strategy):
    model, _ = taggers("wordpiece")
    text = " ".join(tokens)
    starts = [len(" ".join(tokens[:number])) + (number > 0) for number in range(len(tokens))]
    ends = [start + len(token) for start, token in zip(starts, tokens, strict=True)]
    (answer,) = model([{"tokens": tokens}], aggregation_strategy=strategy)
    for one, after in zip(answer, [*answer[1:], {"start": len(text) + 1}], strict=True):
        assert one["start"] in starts
        assert one["end"] in ends
        assert one["end"] <= after["start"]


def by_bioes(tags: list[str]) -> list[tuple[int, int, str]]:
    """Return the spans of tags as seqeval's rules for the ends and beginnings of chunks find them, word by word."""
    spans, start = [], 0
    for place, (tag, before) in enumerate(zip([*tags, "O"], ["O", *tags], strict=True)):
        same_kind = tag[2:] == before[2:]
        if before != "O" and (before[0] in "ES" or tag[0] in "BSO" or not same_kind):
            spans.append((start, place, before[2:]))
        if tag != "O" and (tag[0] in "BS" or before[0] in "ESO" or not same_kind):
            start = place
    return spans


BIOES = ("O", "B-a", "I-a", "E-a", "S-a", "S-b", "I-b", "E-b")


@given(tags=st.lists(st.sampled_from(BIOES), min_size=1, max_size=12))
def test_spans_of_a_model_with_bioes_labels_end_where_its_tags_say(taggers, tags):
    model, _ = taggers("wordpiece", BIOES)
    text = " ".join(["home"] * len(tags))
    asked = model.encode([text])
    logits = np.zeros((len(tags) + 2, len(BIOES)), dtype=np.float32)
    logits[np.arange(len(tags)) + 1, [BIOES.index(tag) for tag in tags]] = 5
    for strategy in STRATEGIES[1:]:
        (answer,) = model.decode(asked, [[logits]], aggregation_strategy=strategy)
        wanted = [(first * 5, end * 5 - 1, kind) for first, end, kind in by_bioes(tags)]
        assert [(one["start"], one["end"], one["entity_group"]) for one in answer] == wanted


def test_an_unknown_aggregation_names_those_there_are(taggers):
    model, _ = taggers("wordpiece")
    with pytest.raises(
        InputError, match="no aggregation is named 'last'; there are: none, simple, first, average, max"
    ):
        model(["home"], aggregation_strategy="last")
