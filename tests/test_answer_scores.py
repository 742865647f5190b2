"""Exact match and F1: cases worked by hand, and the definitions written out again.

`make compat` holds the same against the script of SQuAD 2 as transformers 4.57 carries it.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve.tasks import Reading, task_named
from burnish_serve.tasks.answer_scores import rate
from burnish_serve.tasks.question_answering import Gold

# (right answers, answer, exact match, F1)
BY_WORD = [
    (["Berlin"], "Berlin", 1, 1),
    (["Berlin"], "berlin.", 1, 1),
    (["the Sunlit Hall"], "Sunlit  hall", 1, 1),
    (["the Sunlit Hall"], "a sunlit room", 0, 1 / 2),
    (["Denver Broncos"], "the Denver Broncos team", 0, 4 / 5),  # 2 of 3 given, 2 of 2 due
    (["U.S."], "us", 1, 1),
    (["a-an"], "aan", 1, 1),  # punctuation goes before articles
    (["theatre"], "atre", 0, 0),  # articles are whole words
    (["one one two"], "one two two", 0, 2 / 3),  # each word counts as often as both have it
    (["in 1999", "1999"], "1999", 1, 1),  # the nearest one counts
    (["north west", "south"], "west south", 0, 2 / 3),
    (["x y", "x z w"], "x", 0, 2 / 3),
    (["Berlin"], "", 0, 0),
    (["the"], "", 1, 1),  # nothing is left of either
    (["the"], "cat", 0, 0),
    ([], "", 1, 1),  # no answer, and none given
    ([], "Berlin", 0, 0),
    ([], "the", 1, 1),
]
BY_CHARACTER = [
    (["北京"], "北京", 1, 1),
    (["北京"], "北京市", 0, 4 / 5),
    (["《红楼梦》"], "红楼梦。", 1, 1),
    (["东京，日本"], "日本 东京", 0, 1),  # the order is not counted, as SQuAD has it
    (["1999年"], "1999", 0, 2 / 3),  # what is not Chinese is compared by word: 1 of 2
    (["1999年"], "199年", 0, 1 / 2),
    (["iPhone 6手机"], "iphone手机", 0, 6 / 7),  # iphone, 6, 手, 机
    (["the 王"], "王", 0, 2 / 3),  # an article is a word here
    (["王"], "", 0, 0),
    (["東京タワー"], "東京", 0, 4 / 7),
    (["𠮷野家"], "吉野家", 0, 2 / 3),  # beyond the first 65,536 characters
]


@pytest.mark.parametrize(("rights", "text", "exact", "f1"), [*BY_WORD, *BY_CHARACTER])
def test_scores_worked_by_hand(rights, text, exact, f1):
    assert rate(tuple(rights), text) == (exact, pytest.approx(f1))


def test_punctuation_of_full_width_is_dropped_where_the_answer_is_chinese_alone():
    assert rate(("百分之一百％！",), "百分之一百") == (1, 1)
    assert rate(("100％",), "100")[0] == 0


words = st.lists(st.sampled_from(["cat", "dog", "bird", "sky", "sea"]), max_size=6)


@given(wanted=words, given_words=words)
def test_f1_is_two_common_words_over_all(wanted, given_words):
    left, common = list(wanted), 0
    for word in given_words:
        if word in left:
            left.remove(word)
            common += 1
    exact, f1 = rate((" ".join(wanted),), "The " + ", ".join(given_words))
    assert exact == (wanted == given_words)
    if wanted and given_words:
        precision, recall = common / len(given_words), common / len(wanted)
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall) if common else 0)
    else:
        assert f1 == (wanted == given_words)


def test_metrics_are_means_over_questions():
    task = task_named("question-answering")
    rights = [(Gold("Berlin", 0),), (Gold("the blue sea", 3), Gold("sea", 12)), ()]
    texts = ["berlin", "blue", "sea"]
    answers = [{"score": 0.5, "start": 0, "end": 0, "answer": text} for text in texts]
    metrics = task.score(rights, answers, Reading())
    assert metrics == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3 + 0) / 3)}
    assert task.metric == "f1"
    assert [task.agrees(right, answer) for right, answer in zip(rights, answers, strict=True)] == [True, False, False]
    assert task.agrees((), [{"answer": "", "score": 1.0, "start": 0, "end": 0}, answers[0]])
