"""Copies of rows with words changed: which words come in, and which rows are learned from."""

from __future__ import annotations

import collections
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from burnish_serve.config import configure
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, train
from burnish_train.data import read_splits
from burnish_train.methods import augment
from burnish_train.methods.augment import augmented, changed
from burnish_train.methods.augment_guess import TOP, Blanks, Guesser, Vocabulary
from burnish_train.methods.augment_words import Words, some
from burnish_train.wordpiece import make_tokenizer
from tiny_model import FILLERS, MAX_LENGTH, VOCABULARY, labelled_rows, write_rows
from tiny_model import make_tokenizer as make_tiny_tokenizer
from tiny_tasks import WAYS
from training import furthest_apart, record_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


def by(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def make_masked(folder: Path, tokenizer, logits: dict[str, float]) -> Path:
    """Write a masked language model that gives each token one logit wherever the mask stands, -9 to those not named."""
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=MAX_LENGTH,
    )
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        for weight in model.cls.predictions.transform.parameters():
            weight.zero_()
        model.cls.predictions.bias.fill_(-9.0)
        for token, value in logits.items():
            model.cls.predictions.bias[tokenizer.convert_tokens_to_ids(token)] = value
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


BEST = dict(zip(FILLERS[: TOP + 3], np.linspace(3.0, 0.0, TOP + 3), strict=True))
NEVER = {"[MASK]": 9.0, "[CLS]": 8.0, "##s": 7.0, ".": 6.0, "##ing": 5.0, "-": 4.0}


@pytest.fixture(scope="session")
def masked_model(tmp_path_factory) -> Path:
    """Return a model that would say ``please`` most often, then ``could``, ``you`` …; but for what is no word."""
    folder = tmp_path_factory.mktemp("masked") / "model"
    return make_masked(folder, make_tiny_tokenizer(), {**NEVER, **BEST})


@pytest.fixture(scope="session")
def guesser(masked_model) -> Guesser:
    return Guesser(str(masked_model), max_length=16, cuda=False)


def blanks(text: str, *places: int, seed: int = 0) -> Blanks:
    return Blanks(Words.of(text), list(places), by(seed))


def test_words_are_drawn_from_the_best_by_their_scores(guesser):
    many = 4000
    found = collections.Counter(guesser([blanks("wake me, now", 1, seed=seed) for seed in range(many)]))
    assert {text.removeprefix("wake ").removesuffix(", now") for text in found} == set(FILLERS[:TOP])
    scores = np.exp([BEST[word] for word in FILLERS[:TOP]])
    for word, score in zip(FILLERS[:TOP], scores / scores.sum(), strict=True):
        assert found[f"wake {word}, now"] / many == pytest.approx(score, abs=4 * np.sqrt(score / many)), word


def test_a_word_is_never_replaced_by_itself(guesser):
    for text in ("please wake", "PLEASE wake", "Pléase wake"):
        found = {Words.of(one).words[0].lower() for one in guesser([blanks(text, 0, seed=seed) for seed in range(300)])}
        assert found == set(FILLERS[1 : TOP + 1]), "the eleventh has come up"


def test_what_is_around_a_word_and_its_case_stay(guesser):
    (found,) = guesser([blanks("(Hey)  WAKE me - I'm up!", 0, 1)])
    new = re.fullmatch(r"\(([A-Z][a-z]*|I|A)\)  ([A-Z]+) me - I'm up!", found)
    assert new, found


def test_texts_of_a_batch_and_alone_become_the_same(guesser):
    rows = [row["text"] for row in labelled_rows(60)]
    asked = [Words.of(text) for text in rows]

    def made(number: int) -> Blanks:
        return Blanks(asked[number], some(len(asked[number].words), 0.3, by(number)), by(number))

    together = guesser([made(number) for number in range(60)])
    assert together == [guesser([made(number)])[0] for number in range(60)]
    for number, text in enumerate(together):
        pairs = zip(asked[number].words, Words.of(text).words, strict=True)
        assert [place for place, (one, other) in enumerate(pairs) if one != other] == made(number).places


def test_what_is_not_read_and_what_holds_a_mask_stays(guesser):
    long = " ".join(["wake"] * 30)
    (found,) = guesser([blanks(long, 3, 13, 14, 29)])
    assert [place for place, word in enumerate(found.split()) if word != "wake"] == [3, 13]
    assert guesser([blanks("a [MASK] song", 0)]) == ["a [MASK] song"]
    assert guesser([blanks("", *()), blanks("!")]) == ["", "!"]
    assert guesser([]) == []


def test_characters_are_replaced_by_characters_and_words_by_words(tmp_path):
    tokenizer = make_tokenizer(["我想听歌 Song wake"] * 2, size=100, lowercase=False, max_length=MAX_LENGTH)
    folder = make_masked(tmp_path / "model", tokenizer, {"听": 5.0, "Song": 5.0, "wake": 4.0, "歌": 4.0})
    guesser = Guesser(str(folder), max_length=32, cuda=False)
    assert set(guesser([blanks("我want吗", 0, 1, 2, seed=seed) for seed in range(40)])) <= {
        f"{one}{word}{other}" for one in "听歌想" for word in ("Song", "wake") for other in "听歌我想"
    }
    assert {text[0] for text in guesser([blanks("听", 0, seed=seed) for seed in range(99)])} <= set("歌我想")
    for word, other in (("Wake", "Song"), ("Song", "wake")):
        assert set(guesser([blanks(word, 0, seed=seed) for seed in range(40)])) == {other}, "case is the model's own"


def test_pieces_that_go_on_a_word_are_told_from_those_that_begin_one():
    tokens = ["<mask>", "<s>", "Ġwake", "wake", "Ġa", "ing", "æĪĳ", "Ġæĸ", "Ġ!", "!", "ĠWake"]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<mask>", "<s>"])
    vocabulary = Vocabulary(backend)
    words, characters = ([tokens[number] for number in kind.nonzero()[:, 0]] for kind in vocabulary.allowed)
    assert words == ["Ġwake", "Ġa", "ĠWake"]
    assert characters == ["æĪĳ"]  # the bytes of 我
    assert vocabulary.words[tokens.index("Ġwake")] == "wake"
    assert [tokens[number] for number in vocabulary.same("WAKE")] == ["Ġwake", "wake", "ĠWake"]
    assert not vocabulary.folds_case


def test_special_tokens_and_pieces_are_no_words_however_they_are_written():
    tokens = ["MASK", "UNK", "wake", "##up"]
    backend = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="UNK"))
    backend.decoder = decoders.Replace("##", "")
    backend.add_special_tokens(tokens[:2])
    assert Vocabulary(backend).allowed.tolist() == [[False, False, True, False], [False] * 4]


def config_of(tmp_path: Path, rows: list[dict], **settings) -> TrainConfig:
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    return TrainConfig(model="none", train=path, out=tmp_path / "run", **settings)


def test_copies_keep_the_label_and_stand_in_no_other_split(train_config, tmp_path):
    config = train_config(augment=("swap", "delete"), augment_copies=3, augment_share=0.2)
    before = read_splits(config)
    told = []
    splits = augmented(before, config, tmp_path, begun=False, cuda=False, say=told.append)
    assert (splits.train, splits.dev, splits.test) == (before.train, before.dev, before.test)
    assert splits.labelled == [*splits.train, *splits.augmented]
    others = {row.texts for row in (*before.train, *before.dev, *before.test)}
    assert len({row.texts for row in splits.augmented} | others) == len(splits.augmented) + len(others)
    assert len(splits.augmented) > 2 * len(before.train)
    by_line = {row.line: row for row in before.train}
    for row in splits.augmented:
        origin = by_line[row.line]
        assert (row.right, row.label) == (origin.right, origin.label)
        assert row.asked == {"text": row.texts[0]}
        ours, theirs = (collections.Counter(text.texts[0].split()) for text in (row, origin))
        assert ours <= theirs
    assert told == [f"{len(splits.augmented)} changed copies of {len(before.train)} rows to train: swap, delete"]
    again = augmented(before, config, tmp_path, begun=False, cuda=False, say=told.append)
    assert again == splits
    other = dataclasses.replace(config, seed=1)
    assert augmented(before, other, tmp_path, begun=False, cuda=False, say=told.append).augmented != splits.augmented


def test_a_copy_that_is_a_row_already_is_left_out(tmp_path):
    rows = [{"text": "a b", "label": "x"}, {"text": "b a", "label": "y"}, {"text": "c d", "label": "x"}]
    rows += [{"text": "d", "label": "y"}, {"text": "one", "label": "x"}, {"text": "e e", "label": "y"}]
    config = config_of(tmp_path, rows, dev_fraction=0.0, augment=("swap",), augment_copies=4)
    made = augmented(read_splits(config), config, tmp_path, begun=False, cuda=False, say=print).augmented
    assert [row.texts for row in made] == [("d c",)], "the one that is new, and once"
    dev = str(write_rows(tmp_path / "dev.jsonl", [{"text": "d c", "label": "x"}]))
    config = config_of(tmp_path, rows, dev=dev, augment=("swap",))
    assert not augmented(read_splits(config), config, tmp_path, begun=False, cuda=False, say=print).augmented


def test_of_a_pair_one_text_is_changed_and_the_ways_take_turns(tmp_path):
    rows = [{"text_a": f"a{n} b{n} c{n}", "text_b": f"d{n} e{n} f{n}", "score": n / 40} for n in range(40)]
    config = config_of(tmp_path, rows, task="regression", dev_fraction=0.0, augment=("delete", "swap"))
    splits = augmented(read_splits(config), config, tmp_path, begun=False, cuda=False, say=print)
    assert [row.right for row in splits.augmented] == [n / 40 for n in range(40)]
    changed_ = collections.Counter()
    for number, row in enumerate(splits.augmented):
        differ = [name for name in rows[number].keys() - {"score"} if row.asked[name] != rows[number][name]]
        assert len(differ) == 1
        changed_[differ[0]] += 1
        assert len(row.asked[differ[0]].split()) == (3 if number % 2 else 2)
    assert min(changed_["text_a"], changed_["text_b"]) > 8


def test_blanks_are_filled_in_their_own_rows(train_config):
    config = train_config(augment=("replace", "swap"), augment_copies=2, augment_share=0.3)
    rows = [{"text": row["text"]} for row in labelled_rows(20)]

    def guess(asked):
        return ["/".join([one.parts.text, *map(str, one.places)]) for one in asked]

    found = changed(rows, config, guess)
    assert [number for number, _ in found] == sorted([*range(20)] * 2)
    for place, (number, copy) in enumerate(found):
        text = rows[number]["text"]
        if (number + place) % 2 == 0:
            assert copy["text"].split("/")[0] == text
            assert len(copy["text"].split("/")) == 1 + max(1, round(0.3 * len(text.split())))
        else:
            assert sorted(copy["text"].split()) == sorted(text.split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": task}, f"augment is for .* feature-extraction, .*text-classification; {task} looks at words")
        for task in ("token-classification", "question-answering", "relation-extraction", "fill-mask")
    ],
)
def test_tasks_that_look_at_words_are_refused(train_config, settings, message):
    with pytest.raises(InputError, match=message):
        train_config(augment=("swap",), **settings)


def test_what_cannot_be_is_said(train_config, tiny_encoder, tmp_path):
    with pytest.raises(InputError, match="give --augment replace too"):
        train_config(augment=("swap",), augment_model="a")
    needed = {"model": "a", "train": "b", "out": "c"}
    with pytest.raises(InputError, match="augment must be of replace, swap, delete, not 'insert'"):
        configure(TrainConfig, {**needed, "augment": ["swap", "insert"]})
    with pytest.raises(InputError, match=r"augment_copies must be at least 1, not 0; augment_share must be below 1"):
        configure(TrainConfig, {**needed, "augment_copies": 0, "augment_share": 1.0})
    for settings in ({}, {"augment_model": str(tiny_encoder)}):
        with pytest.raises(
            InputError, match=r"no head for masked words \(it is a BertModel\); give .* --augment-model"
        ):
            train(train_config(augment=("replace",), **settings))
        assert not train_config().out.with_name("run.partial").exists()


def test_a_run_learns_from_copies_and_its_record_tells(train_config, tmp_path):
    plain = train(train_config(out=tmp_path / "plain", num_train_epochs=2.0))
    told = []
    record = train(train_config(augment=("delete",), augment_copies=2, num_train_epochs=2.0), log=told.append)
    about = record_of(train_config().out)["data"]
    assert about["augmented"]["rows"] > 108
    assert {name: about[name] for name in plain["data"]} == plain["data"]
    assert f"{about['augmented']['rows']} changed copies of 108 rows to train: delete" in told
    assert record["steps"] == 2 * -(-(108 + about["augmented"]["rows"]) // 8)
    assert plain["steps"] == 2 * -(-108 // 8)
    for name in ("dev.jsonl", "calibration.jsonl"):
        assert rows_of(train_config().out / name) == rows_of(tmp_path / "plain" / name)


@pytest.mark.parametrize("name", ["pairs", "multi-label-classification", "regression", "feature-extraction"])
def test_other_tasks_learn_from_copies(name, tiny_settings, tmp_path):
    way = WAYS[name]
    path = str(write_rows(tmp_path / "train.jsonl", way.rows(60, 0)))
    settings = {**tiny_settings, "test": None, "max_length": 32, **way.settings, "train": path, "num_train_epochs": 1.0}
    config = TrainConfig(**{**settings, "task": way.task, "out": tmp_path / "run", "augment": ("swap", "delete")})
    assert train(config)["data"]["augmented"]["rows"] > 30


class Stop(transformers.TrainerCallback):
    """Ends a run in the middle."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 23:
            raise RuntimeError


def test_a_resumed_run_learns_from_the_same_copies(train_config, masked_model, tmp_path, monkeypatch):
    ways = ("replace", "swap", "delete")
    settings = {"augment": ways, "augment_model": str(masked_model), "num_train_epochs": 3.0, "save_steps": 5}
    whole = train(train_config(**settings, out=tmp_path / "whole"))
    with pytest.raises(RuntimeError):
        train(train_config(**settings), callbacks=[Stop()])
    monkeypatch.setattr(augment, "Guesser", None)  # what was made once is not made again
    told = []
    resumed = train(train_config(**settings), resume=True, log=told.append)
    assert any(line.endswith("checkpoint-20") for line in told)
    assert furthest_apart(tmp_path / "run", tmp_path / "whole") == 0
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["data"] == whole["data"]


def test_an_encoder_with_a_head_for_masked_words_replaces_words_itself(train_config, masked_model):
    record = train(train_config(model=str(masked_model), augment=("replace",), num_train_epochs=1.0))
    assert record["data"]["augmented"]["rows"] > 90
    known = set(VOCABULARY)
    assert all(set(row["text"].split()) <= known for row in rows_of(train_config().out / "calibration.jsonl"))
