"""Filling masks: answers as the transformers pipeline gives them, windows, and a perplexity worked out by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from burnish_export import evidence
from burnish_export.config import ExportConfig
from burnish_export.source import read_source, reference_runner
from burnish_export.tokenizer import write_tokenizer
from burnish_serve.errors import InputError
from burnish_serve.runner import WIDE_ROWS
from burnish_serve.tasks import Reading, task_named
from burnish_serve.tasks.fill_mask import decode, predicted, score, special
from burnish_serve.text import encoder_for
from make_tiny_bundle import tokenizer
from tiny_model import FILLERS, VOCABULARY, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = task_named("fill-mask")
STRANGE = [*"北京天气很好", "👍", "👩‍👩‍👧", "é", "Ａ", "😀!", "playing,", "it's", "«"]
LENGTH = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a masked language model of random weights, as any Hugging Face user has it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {word: number for number, word in enumerate([*VOCABULARY, *"北京天👍é"])}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        initializer_range=0.5,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    BertTokenizerFast(tokenizer_object=tokenizer(vocabulary), model_max_length=LENGTH).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(folder):
    return read_source(str(folder), "fill-mask", None)


@pytest.fixture(scope="module")
def make_runner(source, tmp_path_factory):
    """Return a function that opens the model with our tokenization, by so many tokens a window."""
    work = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(source, work)

    def make(length: int = LENGTH, stride: int = 8, on_long: str | None = None):
        return reference_runner(source, encoder_for(TASK, work / "tokenizer.json", length, stride, on_long))

    return make


@pytest.fixture(scope="module")
def ours(make_runner):
    return make_runner()


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.pipeline("fill-mask", str(folder), device="cpu")


def masked_texts(count: int, masks: int, seed: int) -> list[str]:
    choice = random.Random(seed)
    texts = []
    for _ in range(count):
        words = choice.choices([*FILLERS, *STRANGE], k=choice.randint(0, 15))
        for _ in range(masks):
            words.insert(choice.randint(0, len(words)), choice.choice(["[MASK]", "[MASK],", "so[MASK]"]))
        texts.append(" ".join(words))
    return texts


def assert_same(answer, wanted):
    assert [list(one) for one in answer] == [["score", "token", "token_str", "sequence"]] * len(wanted)
    for one, other in zip(answer, wanted, strict=True):
        assert {**one, "score": 0} == {**other, "score": 0}
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


# Answers


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"targets": ["music", "北", "songs"]}], ids=str)
def test_answers_are_those_of_the_pipeline(options, ours, theirs):
    texts = masked_texts(100, 1, seed=1)
    for answer, text in zip(ours(texts, **options), texts, strict=True):
        assert_same(answer, theirs(text, **options))


def test_answers_for_several_masks_are_those_of_the_pipeline(ours, theirs):
    texts = [*masked_texts(20, 2, seed=2), *masked_texts(10, 3, seed=3)]
    for answer, text in zip(ours(texts), texts, strict=True):
        wanted = theirs(text)
        assert len(answer) == len(wanted)
        for one, other in zip(answer, wanted, strict=True):
            assert_same(one, other)


def test_all_tokens_are_answered_where_all_are_asked_for(ours):
    (answer,) = ours("the [MASK]", top_k=None)
    scores = [one["score"] for one in answer]
    assert len(answer) == len(VOCABULARY) + 5
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    assert ours("the [MASK]", top_k=1) == [answer[:1]]


def test_a_threshold_is_refused(ours):
    with pytest.raises(InputError, match="fill-mask has no threshold: top_k is a whole number, or all"):
        ours("the [MASK]", top_k="threshold")


def test_of_equal_tokens_the_first_comes_first(ours):
    asked = ours.encode(["the [MASK]"])
    (answer,) = decode(asked, [[np.array([[1.0, 3, 2, 3, 3]], dtype=np.float32)]], ours.reading, top_k=3)
    assert [one["token"] for one in answer] == [1, 3, 4]


def test_a_text_without_a_mask_is_named(ours):
    with pytest.raises(InputError, match=r"row 2 has no \[MASK\]: 'the music'"):
        ours(["the [MASK]", "the music"])
    cut = ours.encoder.max_length
    with pytest.raises(InputError, match=r"texts.txt:7 has no \[MASK\]"):
        ours.answers(ours.encode(["some " * 5], ["texts.txt:7"]))
    assert cut == LENGTH


def test_a_mask_that_was_cut_off_is_told(make_runner):
    with pytest.raises(InputError, match=r"row 1 has no \[MASK\] where it was cut"):
        make_runner(on_long="truncate")("you " * 80 + "[MASK]")


def test_a_target_that_holds_no_token_is_named(ours):
    with pytest.raises(InputError, match=r"the target ' ' is no token"):
        ours("the [MASK]", targets=["music", " "])


def test_a_tokenizer_without_a_mask_is_refused():
    plain = Tokenizer(models.WordPiece({"[UNK]": 0, "mask": 1}, unk_token="[UNK]"))
    plain.add_special_tokens(["[UNK]", "[CLS]"])
    plain.add_tokens(["mask"])
    with pytest.raises(InputError, match=r"the tokenizer has no mask token; its special tokens are: \[UNK\], \[CLS\]"):
        special(plain)


def test_many_rows_are_decoded_some_at_a_time(ours, monkeypatch):
    texts = masked_texts(2 * WIDE_ROWS + 5, 1, seed=4)
    wanted, seen = [ours(text)[0] for text in texts], []
    run = type(ours).outputs
    monkeypatch.setattr(type(ours), "outputs", lambda self, asked: seen.append(len(asked)) or run(self, asked))
    for answer, alone in zip(ours(texts), wanted, strict=True):
        assert_same(answer, alone)
    assert seen == [WIDE_ROWS, WIDE_ROWS, 5]


def test_only_outputs_of_masks_are_kept(ours):
    ((window,),) = ours.outputs(ours.encode(["you [MASK] the [MASK] now"]))
    assert window.shape == (2, len(VOCABULARY) + 5)


# Windows


def test_a_mask_of_a_long_text_is_read_where_it_stands_innermost(make_runner, theirs):
    small = make_runner(length=12, stride=4)
    words = [f"{FILLERS[i]}" for i in range(25)]
    for place in range(25):
        text = " ".join([*words[:place], "[MASK]", *words[place:]])
        # 26 tokens in windows of 10 every 6: those that hold the mask, and the one with most tokens on its lesser side.
        starts = [start for start in (0, 6, 12, 18) if start <= place < start + 10]
        ends = {start: min(start + 10, 26) for start in starts}
        best = max(starts, key=lambda start: (min(place - start, ends[start] - 1 - place), -start))
        (answer,) = small(text)
        assert_same(answer, theirs(" ".join(text.split()[best : ends[best]])))


def test_masks_of_several_windows_are_answered_once_and_in_order(make_runner):
    text = " ".join([*FILLERS[:8], "[MASK]", *FILLERS[8:20], "[MASK]", "now"])
    (answer,) = make_runner(length=12, stride=4)(text)
    assert len(answer) == 2
    assert all(len(one) == 5 for one in answer)


# Scores


def test_rows_to_score_have_a_share_of_their_tokens_masked(ours):
    texts = [" ".join(FILLERS[i : i + 20]) for i in range(40)]
    mask = special(ours.encoder.tokenizer).mask
    for row, whole in zip(ours.examine(texts), ours.encode(texts), strict=True):
        (window,), (before,) = row.windows, whole.windows
        chosen = window.hidden >= 0
        assert chosen.sum() == 3, "15 % of 20"
        assert (window.ids[chosen] == mask).all()
        assert (np.where(chosen, window.hidden, window.ids) == before.ids).all()
        assert not chosen[[0, -1]].any()


def test_what_is_masked_follows_from_the_text_alone(ours):
    texts = [" ".join(FILLERS[i : i + 20]) for i in range(30)]
    together = ours.examine(texts)
    for number, text in enumerate(texts):
        np.testing.assert_array_equal(ours.examine([text])[0].windows[0].hidden, together[number].windows[0].hidden)
    places = {tuple(np.flatnonzero(row.windows[0].hidden >= 0)) for row in together}
    assert len(places) > 20


def test_special_tokens_and_unknown_words_are_not_to_be_guessed(ours):
    (row,) = ours.examine(["qqq [MASK] zzz"])
    assert (row.windows[0].hidden == -1).all()
    assert ours.answers([row]) == [[]]


def test_perplexity_by_hand(ours, source):
    texts = ["please play some music now", "the rain in the city", "hello you"]
    asked = ours.examine(texts)
    answers = ours.answers(asked)
    losses, hits = [], []
    for row, answer in zip(asked, answers, strict=True):
        (window,) = row.windows
        with torch.inference_mode():
            logits = source.network.module(input_ids=torch.from_numpy(window.ids)[None]).logits[0]
        for place, one in zip(np.flatnonzero(window.hidden >= 0), answer, strict=True):
            losses.append(-float(torch.log_softmax(logits[place], -1)[window.hidden[place]]))
            hits.append(int(logits[place].argmax()) == window.hidden[place])
            assert one["token"] == window.hidden[place]
            assert one["token_str"] == VOCABULARY[window.hidden[place]]
            assert one["best"]["token"] == int(logits[place].argmax())
    metrics = TASK.score([None] * 3, answers, ours.reading)
    assert len(losses) == 3, "one of five, one of five, and one of two at the least"
    assert metrics["perplexity"] == pytest.approx(math.exp(sum(losses) / 3), rel=1e-4)
    assert metrics["likelihood"] == pytest.approx(math.exp(-sum(losses) / 3), rel=1e-4)
    assert metrics["token_accuracy"] == sum(hits) / 3


def test_scores_worked_by_hand():
    def guess(probability, token, best):
        return {"score": probability, "token": token, "token_str": "", "best": {"token": best}}

    metrics = score([None, None], [[guess(0.5, 7, 7), guess(0.125, 8, 9)], [guess(0.5, 7, 1)]], Reading())
    assert metrics == {
        "likelihood": pytest.approx(2 ** (-5 / 3)),
        "perplexity": pytest.approx(2 ** (5 / 3)),
        "token_accuracy": 1 / 3,
    }
    assert score([None], [[]], Reading()) == {"likelihood": 1, "perplexity": 1, "token_accuracy": 0}
    assert score([None], [[guess(0.0, 1, 2)]], Reading())["perplexity"] < math.inf


def test_what_an_answer_decides(ours):
    one, several = ours(["the [MASK]", "[MASK] and [MASK]"])
    assert predicted(one) == (one[0]["token"],)
    assert predicted(several) == tuple(ranked[0]["token"] for ranked in several)
    (examined,) = ours.answers(ours.examine(["please play some music now"]))
    assert predicted(examined) == (examined[0]["best"]["token"],)
    assert predicted([]) == ()


def test_export_scores_no_more_rows_than_memory_holds(source, ours, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": " ".join(FILLERS[i : i + 7])} for i in range(30)])
    config = ExportConfig(checkpoint="x", out=tmp_path / "y", eval=str(path))
    assert len(evidence.read_evidence(config, source, ours).evaluation) == 30
    monkeypatch.setattr(evidence, "EVALUATION_VALUES", 10 * (len(VOCABULARY) + 5))
    found = evidence.read_evidence(config, source, ours)
    assert len(found.evaluation) == len(found.labelled) == 10
    assert [row.row for row in found.evaluation] == [example.asked for example in found.labelled]
