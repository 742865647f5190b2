"""A vocabulary made from texts: Chinese by character, pieces of words, the same each time, as transformers loads it."""

from __future__ import annotations

import pytest
import transformers

from burnish_serve.errors import InputError
from burnish_train.wordpiece import SPECIAL, make_tokenizer
from tiny_model import labelled_rows

CHINESE = ["我们 在 北京", "北京的天气很好", "我们很好，天气好。", "他在北京"]
ENGLISH = ["playing and played", "the player plays", "we play the game", "playing games", "player of the year"]


def test_chinese_is_split_by_character_and_english_into_pieces():
    tokenizer = make_tokenizer([*CHINESE, *ENGLISH], size=80, lowercase=True, max_length=32)
    assert tokenizer.tokenize("我们很好") == ["我", "们", "很", "好"]
    assert tokenizer.tokenize("The PLAY") == ["the", "play"]
    assert "".join(piece.removeprefix("##") for piece in tokenizer.tokenize("payed")) == "payed"
    assert len(tokenizer.tokenize("payed")) > 1
    assert tokenizer.tokenize("他") == ["[UNK]"], "it was seen once"
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3, 4]
    assert tokenizer("我们", "好")["input_ids"] == tokenizer.convert_tokens_to_ids(
        ["[CLS]", "我", "们", "[SEP]", "好", "[SEP]"]
    )
    assert not any("##" + character in tokenizer.get_vocab() for character in "我们北京")


def test_case_is_kept_where_it_is_asked_for():
    texts = ["Ada wrote", "Ada Wrote", "ada wrote"] * 2
    assert make_tokenizer(texts, size=100, lowercase=False, max_length=8).tokenize("Ada wrote ada") == [
        "Ada",
        "wrote",
        "ada",
    ]
    assert make_tokenizer(texts, size=100, lowercase=True, max_length=8).tokenize("Ada WROTE") == ["ada", "wrote"]


def test_the_same_texts_give_the_same_vocabulary():
    texts = [row["text"] for row in labelled_rows(300)]
    made = [make_tokenizer(texts, size=90, lowercase=True, max_length=8).get_vocab() for _ in range(4)]
    assert len(made[0]) == 90
    assert all(one == made[0] for one in made)
    assert len(make_tokenizer(texts, size=10_000, lowercase=True, max_length=8)) < 600


def test_a_vocabulary_with_too_little_room_says_how_much_it_needs():
    with pytest.raises(
        InputError, match=r"a vocabulary of 15 tokens cannot be made: 5 are special, and of the \d+ char"
    ):
        make_tokenizer(ENGLISH, size=15, lowercase=True, max_length=8)
    with pytest.raises(InputError, match="of the 0 characters that are seen twice"):
        make_tokenizer(["abc"], size=99, lowercase=True, max_length=8)


def test_transformers_loads_the_tokenizer_as_it_was(tmp_path):
    made = make_tokenizer([*CHINESE, *ENGLISH], size=80, lowercase=True, max_length=32)
    made.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*CHINESE, *ENGLISH, "Ünknown 👍 北京"]:
        assert loaded(text)["input_ids"] == made(text)["input_ids"]
    assert (loaded.mask_token_id, loaded.pad_token_id, loaded.model_max_length) == (4, 0, 32)
