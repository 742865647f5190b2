"""A text as words, some of which are swapped or left out: what stays of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_train.methods.augment_words import Words, delete, swap

PLAIN = st.lists(st.sampled_from(["a", "bee", "don't", "x-1", "Ünal", "3.50"]), min_size=1, max_size=12)
GAPS = st.sampled_from([" ", ", ", "  ", " (", ") ", "\n", " - ", "… "])
CHINESE = st.text("我想听歌明天早上叫醒", min_size=1, max_size=12)
SHARES = st.sampled_from([0.01, 0.1, 0.3, 0.9])


@st.composite
def texts(draw) -> tuple[list[str], str]:
    """Return words, and a text that they stand in with spaces and punctuation between them."""
    words = draw(PLAIN)
    return words, words[0] + "".join(draw(GAPS) + word for word in words[1:]) + draw(st.sampled_from(["", ".", "?! "]))


def by(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.text() | st.text("ab 我、。ー!-'\n\ufe0f\U0002ebe1"))
def test_the_parts_of_a_text_are_the_text(text):
    parts = Words.of(text)
    assert parts.text == text
    assert len(parts.gaps) == len(parts.words) + 1
    assert all(parts.words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Wake me, please!", "Wake me please"),
        ("don't say 'hello' to @ada (on http://a.b/c)", "don't say hello to ada on http://a.b/c"),
        ("我想听Taylor Swift的歌，好吗？", "我 想 听 Taylor Swift 的 歌 好 吗"),
        ("東京タワーへ・いく", "東 京 タ ワ ー へ い く"),
        ("हिन्दी भाषा, ไทย", "हिन्दी भाषा ไทย"),
        ("서울 날씨", "서울 날씨"),
        ("葛\U000e0100飾区", "葛\U000e0100 飾 区"),
        ("… !", ""),
    ],
)
def test_words_are_what_spaces_part_and_single_characters_where_none_do(text, words):
    assert list(Words.of(text).words) == words.split()


@given(texts(), SHARES, st.integers(0, 9))
def test_what_is_left_of_deleted_words_are_the_others_in_order(drawn, share, seed):
    words, text = drawn
    found = delete(text, share, by(seed))
    left = iter(words)
    assert all(word in left for word in Words.of(found).words), "a part of the words, in their order"
    assert len(Words.of(found).words) == max(1, len(words) - max(1, round(share * len(words))))
    assert re.findall(r"[^\w\s'.-]", found) == re.findall(r"[^\w\s'.-]", text), "punctuation stays"
    assert found == delete(text, share, by(seed))


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("Wake me, please!", 1, "Wake, please!"),
        ("Wake me, please!", 2, "Wake me,!"),
        ("(me too)", 0, "(too)"),
        ("a  b c", 1, "a c"),
        ("我想听歌", 2, "我想歌"),
        ("用iPhone和iPad看", 2, "用iPhone iPad看"),
        ("中a-国b文", 2, "中a- b文"),
    ],
)
def test_a_word_goes_with_the_space_before_it_and_others_do_not_grow_together(text, gone, left):
    assert Words.of(text).without(gone).text == left


@given(texts(), SHARES, st.integers(0, 9))
def test_swapped_words_are_the_same_words_between_the_same_signs(drawn, share, seed):
    words, text = drawn
    found = swap(text, share, by(seed))
    assert sorted(Words.of(found).words) == sorted(words)
    assert Words.of(found).gaps == Words.of(text).gaps
    moved = [place for place, (one, other) in enumerate(zip(words, Words.of(found).words, strict=True)) if one != other]
    assert len(moved) <= max(2, share * len(words) + 1)
    assert found == swap(text, share, by(seed))


@given(st.integers(2, 30), SHARES, st.integers(0, 9))
def test_a_share_of_the_words_changes_places_with_their_neighbours(count, share, seed):
    words = [f"w{number}" for number in range(count)]
    found = swap(" ".join(words), share, by(seed)).split()
    moved = [int(word[1:]) - place for place, word in enumerate(found) if word != words[place]]
    assert moved, "one pair at least"
    assert set(moved) == {1, -1}
    assert moved == [1, -1] * (len(moved) // 2), "no word goes further than its neighbour's place"
    assert len(moved) <= max(2, round(share * count))


@given(CHINESE, SHARES, st.integers(0, 9))
def test_chinese_is_changed_by_character(text, share, seed):
    assert sorted(swap(text, share, by(seed))) == sorted(text)
    assert len(delete(text, share, by(seed))) == max(1, len(text) - max(1, round(share * len(text))))
