"""Masking: how much is hidden, whole words of it, the same for a seed and a step, and the loss of what is hidden."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve.tasks import Encoded, task_named
from burnish_serve.text import encoder_for
from burnish_train.masking import Masked, choose, is_ideograph, logits_at, pack
from tiny_model import MAX_LENGTH, VOCABULARY, make_encoder, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
CLS, SEP, MASK, UNK = (VOCABULARY.index(token) for token in ("[CLS]", "[SEP]", "[MASK]", "[UNK]"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return encoder_for(task_named("fill-mask"), folder / "tokenizer.json", MAX_LENGTH, stride=0)


@pytest.fixture
def target(encoder):
    """Return a function that makes a target that knows the tiny vocabulary, with some settings changed."""

    def make(**changes) -> Masked:
        settings = {"seed": 7, "mlm_probability": 0.15, "whole_word_masking": True, "pack_texts": False, **changes}
        made = Masked(task_named("fill-mask"), SimpleNamespace(**settings), (), [])
        made.meet(SimpleNamespace(encoder=encoder))
        return made

    return make


def batch_of(rows: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and words of random texts: words of one to three tokens between an opening and a closing token."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, len(VOCABULARY), (rows, length))
    words = np.cumsum(random.random((rows, length)) < 0.6, axis=1)
    ids[:, 0], ids[:, -1] = CLS, SEP
    words[:, 0] = words[:, -1] = -1
    return ids, words


# What is hidden


def test_of_a_batch_15_percent_are_chosen_and_these_are_masked_replaced_or_kept(target):
    ids, words = batch_of(400, 64)
    hidden, chosen = target(whole_word_masking=False).hide(ids, words, step=3)
    assert chosen.sum() == int(0.15 * (words >= 0).sum())
    assert not chosen[words < 0].any()
    assert (hidden[~chosen] == ids[~chosen]).all()
    masked, same = hidden[chosen] == MASK, hidden[chosen] == ids[chosen]
    # Of some 3,700 tokens each share is known to 0.02; a random token is the same one in 1 of 94 cases.
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert same.mean() == pytest.approx(0.1 + 0.1 / 94, abs=0.02)
    others = hidden[chosen][~masked & ~same]
    assert others.min() >= 5, "a random token is no special one"
    assert len(set(others.tolist())) > 60


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_share_is_the_settings(target, share):
    ids, words = batch_of(100, 64)
    _, chosen = target(mlm_probability=share).hide(ids, words, step=0)
    assert share - 0.002 < chosen.sum() / (words >= 0).sum() <= share


def test_words_are_hidden_whole(target):
    ids, words = batch_of(50, 64)
    _, chosen = target().hide(ids, words, step=0)
    _, single = target(whole_word_masking=False).hide(ids, words, step=0)

    def torn(flags: np.ndarray) -> int:
        return sum(
            0 < flags[row][words[row] == word].sum() < (words[row] == word).sum()
            for row in range(50)
            for word in range(1, words[row].max() + 1)
        )

    assert torn(chosen) == 0
    assert torn(single) > 0


def test_what_is_hidden_follows_from_seed_and_step(target):
    ids, words = batch_of(8, 32)
    first = target().hide(ids, words, step=5)
    np.testing.assert_array_equal(first, target().hide(ids, words, step=5))
    assert (first[1] != target().hide(ids, words, step=6)[1]).any()
    assert (first[1] != target(seed=8).hide(ids, words, step=5)[1]).any()


def test_runs_of_one_to_three_ideographs_are_words():
    words = np.tile(np.arange(3000), (40, 1))
    every = np.ones_like(words, dtype=bool)
    chosen = choose(words, every, 0.01, np.random.default_rng(0))
    edges = np.flatnonzero(np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(int).ravel()))
    lengths = np.diff(edges)[::2]
    assert len(lengths) > 500
    shares = [(lengths == count).mean() for count in (1, 2, 3)]
    assert shares == pytest.approx([4 / 9, 3 / 9, 2 / 9], abs=0.05)
    assert sum(shares) > 0.95, "a few stand side by side by chance"
    alone = choose(words, ~every, 0.01, np.random.default_rng(0))
    assert (
        np.diff(np.flatnonzero(np.diff(np.pad(alone, ((0, 0), (1, 1))).astype(int).ravel())))[::2] == 1
    ).mean() > 0.9


def test_ideographs_do_not_join_other_words():
    words = np.arange(9)[None].repeat(200, 0)
    ideographs = np.tile([True, True, False, False, False, True, False, True, True], (200, 1))
    together = np.zeros((9, 9))
    for step in range(200):
        chosen = choose(words, ideographs, 1 / 1800, np.random.default_rng(step))  # one word
        (row,) = np.flatnonzero(chosen.any(1))
        places = np.flatnonzero(chosen[row])
        together[places[0], places[-1]] += 1
    assert set(zip(*np.nonzero(together), strict=True)) <= {*((i, i) for i in range(9)), (0, 1), (7, 8)}
    assert together[0, 1] + together[7, 8] > 10


@given(st.integers(1, 4), st.integers(1, 12), st.floats(0.01, 0.9), st.integers(0, 99))
def test_never_more_than_the_share_but_for_one_word_and_never_none(rows, length, share, seed):
    random = np.random.default_rng(seed)
    words = np.sort(random.integers(-1, 6, (rows, length)), axis=1)
    words[0, -1] = 6
    ideographs = random.random((rows, length)) < 0.5
    chosen = choose(words, ideographs, share, random)
    assert chosen.any()
    assert not chosen[words < 0].any()
    counts = [np.sum(words[row] == word) for row in range(rows) for word in set(words[row]) - {-1}]
    assert chosen.sum() <= max(share * (words >= 0).sum(), 3 * max(counts))


def test_which_tokens_are_ideographs():
    for token in ("我", "##我", "▁国", "㐀", "𠀀"):
        assert is_ideograph(token)
    for token in ("a", "##a", "我们", "カ", "한", "，", "1", "[MASK]", "", "##"):
        assert not is_ideograph(token)


# Windows


def test_texts_are_packed_end_to_end(encoder):
    texts = ["please play music", "rain", "tell me the weather now", "hello you"]
    windows = [window for row in encoder([(text,) for text in texts]) for window in row]
    packed = pack(windows, 8)
    stream = [token for window in windows for token in (*window.ids[1:-1].tolist(), SEP)][:-1]
    assert [window.ids.tolist() for window in packed] == [
        [CLS, *stream[start : start + 6], SEP] for start in range(0, len(stream), 6)
    ]
    for window in packed:
        outside = np.isin(window.ids, [CLS, SEP])
        assert ((window.words == -1) == outside).all()
    words = np.concatenate([window.words for window in packed])
    assert len(set(words[words >= 0].tolist())) == sum(len(text.split()) for text in texts), (
        "a word of one text is its own"
    )


def test_items_are_windows_with_words_to_hide(target, encoder):
    examples = [SimpleNamespace()] * 3
    asked = [SimpleNamespace(windows=windows) for windows in encoder([("rain",), ("",), ("qqq music " + "you " * 60,)])]
    items = target().items(examples, asked)
    assert [len(item["input_ids"]) for item in items] == [3, 32, 32, 4]
    (unknown,) = np.flatnonzero(items[1]["input_ids"] == UNK)
    assert items[1]["value"][unknown] == -1, "an unknown word cannot be guessed"
    packed = target(pack_texts=True).items(examples, asked)
    assert [len(item["input_ids"]) for item in packed] == [32, 32, 6], "a long text goes on without a closing token"


# The loss


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_encoder(tmp_path_factory.mktemp("encoder"))
    return transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()


def test_only_hidden_tokens_are_projected_and_the_loss_is_that_of_all(model, target):
    ids, words = batch_of(3, 12)
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(3, 12, dtype=torch.int64)}
    hidden, chosen = target().hide(ids, words, step=4)
    full = model(**{**inputs, "input_ids": torch.from_numpy(hidden)}).logits
    gathered = logits_at(model, {**inputs, "input_ids": torch.from_numpy(hidden)}, torch.from_numpy(chosen))
    torch.testing.assert_close(gathered, full[torch.from_numpy(chosen)])
    labels = torch.where(torch.from_numpy(chosen), torch.from_numpy(ids), -100)
    reference = torch.nn.functional.cross_entropy(full.flatten(0, 1), labels.flatten())
    ours, _ = target().learn(model, inputs, torch.from_numpy(words), step=4)
    torch.testing.assert_close(ours, reference)
    assert model(**inputs).logits.shape == (3, 12, len(VOCABULARY)), "the model is left as it was"


@pytest.mark.parametrize("name", ["roberta", "distilbert", "electra", "mpnet", "modernbert", "deberta-v2"])
def test_heads_of_other_architectures_take_only_the_hidden_tokens_too(name):
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 64, "max_position_embeddings": 40, "pad_token_id": 0}
    theirs = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    made = theirs if name == "distilbert" else {**sizes, **more}
    if name == "modernbert":
        made |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = transformers.AutoConfig.for_model(name, **made)
    other = transformers.AutoModelForMaskedLM.from_config(config).eval()
    inputs = {"input_ids": torch.randint(5, 60, (3, 10)), "attention_mask": torch.ones(3, 10, dtype=torch.int64)}
    chosen = torch.arange(30).reshape(3, 10) % 4 == 0
    torch.testing.assert_close(logits_at(other, inputs, chosen), other(**inputs).logits[chosen])


def test_gradients_are_those_of_the_whole_loss(model, target):
    ids, words = batch_of(2, 9)
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    target().learn(ours, inputs, torch.from_numpy(words), step=1)[0].backward()
    hidden, chosen = target().hide(ids, words, step=1)
    labels = torch.where(torch.from_numpy(chosen), torch.from_numpy(ids), -100)
    theirs(input_ids=torch.from_numpy(hidden), attention_mask=inputs["attention_mask"], labels=labels).loss.backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_loss_of_rows_that_are_scored_is_of_what_is_hidden_there(model, target):
    window = Encoded(
        np.array([CLS, MASK, 9, SEP]), np.zeros(4, dtype=np.int64), False, hidden=np.array([-1, 30, -1, -1])
    )
    (item,) = target().items([SimpleNamespace()], [SimpleNamespace(windows=(window,))])
    batch = target().batch([item], ("input_ids", "attention_mask"), 0)
    labels = batch.pop("labels")
    loss, _ = target().learn(model, batch, labels, step=None)
    logits = model(**batch).logits[0, 1]
    torch.testing.assert_close(loss, -torch.log_softmax(logits, -1)[30])
