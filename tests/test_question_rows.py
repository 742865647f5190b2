"""Rows of question answering: every form that answers come in, and what is said of those that cannot be right."""

from __future__ import annotations

import json

import pytest

from burnish_serve.errors import InputError
from burnish_serve.evaluation import read_labelled
from burnish_serve.tasks.question_answering import Gold
from tiny_questions import CONTEXT, QUESTION, TASK, drawn, runner


@pytest.fixture(scope="module")
def path(tiny_bundle):
    return tiny_bundle / "tokenizer.json"


def labelled(tmp_path, row, name="rows.jsonl"):
    (tmp_path / name).write_text(json.dumps({"question": QUESTION, "context": CONTEXT, **row}) + "\n", encoding="utf-8")
    (found,) = read_labelled(str(tmp_path / name), TASK, ())
    return found.right


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "day", "start": 14}, {"text": "nice day", "start": 9}],
        [{"text": "day", "answer_start": 14}, {"text": "nice day", "answer_start": 9}],
        {"text": ["day", "nice day"], "answer_start": [14, 9]},
        {"text": ["day", "nice day"], "start": [14, 9]},
        '[{"text": "day", "start": 14}, {"text": "nice day", "start": 9}]',
    ],
)
def test_answers_are_read_in_all_their_forms(tmp_path, answers):
    assert labelled(tmp_path, {"answers": answers}) == (Gold("day", 14), Gold("nice day", 9))


@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}, "[]"])
def test_a_question_may_have_no_answer(tmp_path, answers):
    assert labelled(tmp_path, {"answers": answers}) == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"no column 'answers'; the columns there are: 'question', 'context'$"),
        ({"answers": None}, r"the label in column 'answers' is empty"),
        ({"answers": "day"}, r"column 'answers' must hold a list of \{\"text\": …, \"start\": …\}.*, not \"day\"$"),
        ({"answers": {"text": ["day"], "answer_start": []}}, r"must hold a list of .*, not \{\"text\": \[\"day\"\]"),
        ({"answers": 5}, r"must hold a list of .*, not 5$"),
        ({"answers": ["day"]}, r"an answer is \{\"text\": a text, \"start\": a whole number\}, not \"day\"$"),
        ({"answers": [{"text": "day"}]}, r"a whole number\}, not \{\"text\": \"day\"\}$"),
        ({"answers": [{"text": "day", "start": "14"}]}, r"\"start\": a whole number\}, not "),
        ({"answers": [{"text": "day", "start": True}]}, r"\"start\": a whole number\}, not "),
        ({"answers": [{"text": "", "start": 3}]}, r"an answer is empty; .* has an empty list of answers$"),
        ({"answers": [{"text": "day", "start": 41}]}, r"the answer 'day' starts at character 41, .* has 41 characters"),
        ({"answers": [{"text": "day", "start": -1}]}, r"starts at character -1, and the context has 41"),
        (
            {"answers": [{"text": "day", "start": 13}]},
            r"the answer 'day' does not stand at character 13, where ' da' is; it stands at 14$",
        ),
        ({"answers": [{"text": "dawn", "start": 14}]}, r"at character 14, where 'day,' is; it is not in the context$"),
        ({"answers": [{"text": "cold.!", "start": 36}]}, r"at character 36, where 'cold\.' is; it is not"),
        ({"context": 5, "answers": []}, r"column 'context' must hold text, not 5$"),
    ],
)
def test_bad_rows_name_file_line_and_value(tmp_path, row, message):
    with pytest.raises(InputError, match=rf"rows\.jsonl:1: .*{message}"):
        labelled(tmp_path, row)


def test_a_text_alone_is_no_question(path):
    with pytest.raises(InputError, match=r"row 1 is a text; question-answering needs the columns question, context$"):
        runner(path, drawn(0))("great film")


def test_a_question_that_leaves_no_room_is_said(path):
    rows = [{"question": "what", "context": "nice"}, {"question": "great film " * 20, "context": "it was nice"}]
    with pytest.raises(
        InputError, match=r"row 2 leaves no room for windows: .* stand 43 tokens, and the model reads 16$"
    ):
        runner(path, drawn(0), max_length=16)(rows)
