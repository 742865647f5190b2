"""Token ids must be those that the model was trained on: every one is compared with the tokenizer of transformers."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from burnish_serve import text as text_module
from burnish_serve.errors import BundleError, InputError
from burnish_serve.text import TextEncoder

pieces = st.sampled_from(
    ["great", "film", "dulls", "Loveing", "é", "未", "😀", "!", ".", "xyz", "e", "x", "ex", "\u0301", "\x00"]
)
spaces = st.sampled_from([" ", "", "\n", "\u3000", "   "])
# A text as people write it, and one with runs that are far longer than what the model reads.
sentences = st.lists(st.tuples(pieces, spaces), max_size=30).map(lambda parts: "".join(map("".join, parts)))
runs = st.tuples(pieces | spaces, st.integers(1, 400)).map(lambda run: run[0] * run[1])
long_texts = st.lists(runs | sentences, max_size=6).map(" ".join)
texts = st.text(max_size=40) | sentences


@pytest.fixture(scope="module")
def path(tiny_bundle):
    return tiny_bundle / "tokenizer.json"


@pytest.fixture(scope="module")
def transformers_tokenizer(path):
    return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="[PAD]")


def encode(path, max_length, *rows):
    return [row for (row,) in TextEncoder(path, max_length)(list(rows))]


@given(rows=st.lists(texts, max_size=5), max_length=st.integers(3, 20))
def test_ids_are_those_of_transformers(path, transformers_tokenizer, rows, max_length):
    for row, encoded in zip(rows, encode(path, max_length, *[(row,) for row in rows]), strict=True):
        theirs = transformers_tokenizer(row, truncation=True, max_length=max_length, return_token_type_ids=True)
        assert encoded.ids.tolist() == theirs["input_ids"]
        assert encoded.type_ids.tolist() == theirs["token_type_ids"]
        assert encoded.truncated == (len(transformers_tokenizer(row)["input_ids"]) > max_length)


@given(first=texts, second=texts, max_length=st.integers(4, 24))
def test_pairs_are_cut_as_transformers_cuts_them(path, transformers_tokenizer, first, second, max_length):
    (encoded,) = encode(path, max_length, (first, second))
    # As a batch: transformers takes a single call with an empty second text for one without a second text.
    theirs = transformers_tokenizer(
        [first], [second], truncation=True, max_length=max_length, return_token_type_ids=True
    )
    assert [encoded.ids.tolist()] == theirs["input_ids"]
    assert [encoded.type_ids.tolist()] == theirs["token_type_ids"]
    assert encoded.truncated == (len(transformers_tokenizer([first], [second])["input_ids"][0]) > max_length)


def test_transformers_loads_the_bundles_tokenizer(tiny_bundle, path):
    theirs = AutoTokenizer.from_pretrained(tiny_bundle)
    text = "It was GREAT, and the film is nice!  " * 3
    (encoded,) = encode(path, theirs.model_max_length, (text,))
    assert encoded.ids.tolist() == theirs(text, truncation=True)["input_ids"]
    assert len(encoded.ids) == theirs.model_max_length == 16


def uncapped(path, max_length, *parts):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_length)
    encoding = tokenizer.encode(*parts)
    return encoding.ids, encoding.type_ids, bool(encoding.overflowing)


def seen(encoded):
    return encoded.ids.tolist(), encoded.type_ids.tolist(), encoded.truncated


@example(text="e" * 101, max_length=3)
@example(text="great" + " " * 5000 + "film", max_length=16)
@example(text="film " * 2000 + "dull", max_length=16)
@given(text=long_texts, max_length=st.integers(3, 40))
def test_the_cap_on_characters_changes_no_token(path, text, max_length):
    (encoded,) = encode(path, max_length, (text,))
    assert seen(encoded) == uncapped(path, max_length, text)


@example(first="great" + " " * 5000 + "film", second="film " * 2000, max_length=16)
@example(first="film " * 2000, second="great" + " " * 5000 + "film", max_length=60)
@example(first="é" * 37, second="great " * 35 + "é" * 101 + " dull", max_length=4)
@example(
    first="é" * 37,
    second="great " * 13 + "greatfilm" + " é" * 9 + " great" * 6 + " é" * 6 + " film  " + "é" * 101,
    max_length=4,
)
@given(first=long_texts, second=long_texts, max_length=st.integers(4, 40))
def test_the_cap_on_characters_changes_no_token_of_a_pair(path, first, second, max_length):
    (encoded,) = encode(path, max_length, (first, second))
    assert seen(encoded) == uncapped(path, max_length, first, second)


def test_the_cap_keeps_the_tokenizer_from_reading_a_whole_book(path, monkeypatch):
    read = []
    encode_texts = TextEncoder._encode

    def spy(encoder, rows):
        read.extend(len(part) for row in rows for part in row)
        return encode_texts(encoder, rows)

    monkeypatch.setattr(TextEncoder, "_encode", spy)
    (encoded,) = encode(path, 16, ("great film " * 100_000,))
    assert encoded.truncated
    assert sum(read) < 20_000


def test_rows_of_a_batch_do_not_touch_one_another(path):
    rows = [("great",), ("film " * 900,), ("",), (" " * 9000 + "dull",), ("nice day",)]
    together = [seen(encoded) for encoded in encode(path, 16, *rows)]
    assert together == [seen(encode(path, 16, row)[0]) for row in rows]
    assert [truncated for *_, truncated in together] == [False, True, False, False, False]


def test_truncation_and_padding_of_the_file_are_not_taken(path, tmp_path):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4, strategy="only_first", direction="left")
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"]["max_length"] == 4
    rows = [("great film",), ("it was a great film and the plot is nice",)]
    assert list(map(seen, encode(tmp_path / "tokenizer.json", 8, *rows))) == list(map(seen, encode(path, 8, *rows)))


@pytest.mark.parametrize("row", [("\ud800",), ("great \udfff film",), ("great", "film \ud83d")])
def test_half_a_surrogate_pair_is_said(path, row):
    with pytest.raises(InputError, match=r"half of a surrogate pair: .*\\ud"):
        encode(path, 16, ("nice",), row)


def test_a_whole_surrogate_pair_is_a_character(path):
    assert len(encode(path, 16, ("\U0001f600",))[0].ids) == 3


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_a_file_that_is_no_tokenizer_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        TextEncoder(tmp_path / "tokenizer.json", 16)


def test_a_length_without_room_for_text_is_said(path):
    with pytest.raises(InputError, match="max_length of 2 leaves no room beside 2 special tokens"):
        TextEncoder(path, 2)
    assert text_module.CHARACTERS_PER_TOKEN > 1
