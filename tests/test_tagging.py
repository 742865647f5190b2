"""Rows with spans: tags of both schemes are read and repaired, and what cannot be right names file, line and value."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burnish_serve import TASKS
from burnish_serve.errors import InputError
from burnish_serve.evaluation import read_labelled
from burnish_serve.tasks import Reading
from burnish_serve.tasks.tagged_rows import apart, bounds_of, delimiter_of, remark
from burnish_serve.tasks.tagging import kinds_of, labels_for, repaired, runs, tags_of

TASK = TASKS["token-classification"]
tags_anyhow = st.lists(st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("a", "b-c"))]))


def spans_of(row: dict) -> tuple:
    asked = TASK.asked(row, "row 1")
    return TASK.right(row, asked, TASK.label_column_of(asked), "row 1")


# Tags


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("", []),
        ("O O", []),
        ("B-a I-a O B-a", [(0, 2, "a"), (3, 4, "a")]),
        ("B-a B-a I-a", [(0, 1, "a"), (1, 3, "a")]),
        ("O I-a I-a O", [(1, 3, "a")]),  # begins with I-
        ("B-a I-b", [(0, 1, "a"), (1, 2, "b")]),  # goes on with another type
        ("I-a B-a O I-a", [(0, 1, "a"), (1, 2, "a"), (3, 4, "a")]),  # IOB1
        ("B-a I-a E-a S-b", [(0, 3, "a"), (3, 4, "b")]),
        ("S-a I-a E-a", [(0, 1, "a"), (1, 3, "a")]),
        ("E-a E-a", [(0, 1, "a"), (1, 2, "a")]),
        ("B-creative-work I-creative-work", [(0, 2, "creative-work")]),
    ],
)
def test_spans_of_tags_worked_by_hand(tags, spans):
    assert runs(tags.split()) == spans


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("O I-a I-a", "O B-a I-a"),
        ("B-a I-b I-b", "B-a B-b I-b"),
        ("I-a O S-a", "S-a O S-a"),
        ("B-a I-a S-b", "B-a E-a S-b"),
        ("B-a I-a O B-a", "B-a I-a O B-a"),
        ("B-a I-a E-a S-a", "B-a I-a E-a S-a"),
    ],
)
def test_repairs_worked_by_hand(tags, wanted):
    assert repaired(tags.split()) == wanted.split()


@given(tags_anyhow)
def test_repair_is_idempotent_and_changes_no_span(tags):
    once = repaired(tags)
    assert repaired(once) == once
    assert runs(once) == runs(tags)
    assert len(once) == len(tags)


@given(tags_anyhow, st.sampled_from(["BIO", "BIOES"]))
def test_spans_survive_either_scheme(tags, scheme):
    spans = runs(tags)
    written = tags_of(spans, len(tags), scheme)
    assert runs(written) == spans
    assert set(written) <= set(labels_for(("a", "b-c"), scheme))


def test_labels_of_a_model_and_their_types():
    assert labels_for(("LOC", "PER"), "BIO") == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert labels_for(("PER",), "BIOES") == ("O", "B-PER", "I-PER", "E-PER", "S-PER")
    assert kinds_of(("O", "B-LOC", "I-LOC", "S-creative-work", "PER")) == ["LOC", "creative-work", "PER"]


# Rows


def test_tokens_are_joined_to_a_text_and_tags_to_spans():
    row = {"tokens": ["Ada", "King", "of", "O'Hara", "😀"], "tags": ["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]}
    assert TASK.texts(TASK.asked(row, "row 1"), "row 1") == ("Ada King of O'Hara 😀",)
    assert spans_of(row) == ((0, 8, "PER"), (12, 18, "LOC"), (19, 20, "LOC"))


def test_chinese_tokens_of_one_character_are_joined_without_spaces():
    row = {"tokens": list("我在北京1号"), "tags": ["O", "O", "B-LOC", "I-LOC", "O", "O"]}
    assert TASK.texts(row, "row 1") == ("我在北京1号",)
    assert spans_of(row) == ((2, 4, "LOC"),)
    assert delimiter_of(["我", "GDP"]) == delimiter_of(["a", "."]) == " "
    assert delimiter_of(["𠮷"]) == delimiter_of(["の", "!"]) == ""


@given(st.lists(st.text(max_size=4)))
def test_bounds_index_the_joined_text(tokens):
    (text,) = TASK.texts({"tokens": tokens}, "row 1")
    assert [text[start:end] for start, end in bounds_of(tokens)] == tokens


@pytest.mark.parametrize("name", ["label", "slot", "entity", "entity_group", "type"])
def test_spans_have_their_label_under_the_names_that_people_use(name):
    row = {"text": "at six for 2", "spans": [{"start": 11, "end": 12, name: "n"}, {"start": 3, "end": 6, name: "time"}]}
    assert spans_of(row) == ((3, 6, "time"), (11, 12, "n"))


def test_lists_may_stand_in_csv_as_json(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('tokens,tags\n"[""Ada"", ""ran""]","[""B-PER"", ""O""]"\n')
    (row,) = read_labelled(str(path), TASK, ("O", "B-PER", "I-PER"))
    assert row.right == ((0, 3, "PER"),)
    assert TASK.texts(row.asked, "row 1") == ("Ada ran",)


def test_of_spans_that_overlap_the_longest_are_learned_and_all_are_right():
    spans = [(0, 4, "a"), (2, 9, "b"), (9, 12, "c"), (10, 13, "d"), (20, 21, "e"), (20, 21, "f")]
    assert apart(spans) == [(2, 9, "b"), (9, 12, "c"), (20, 21, "e")]
    assert "overlap" in remark(spans, [])
    assert remark(apart(spans), []) == ""
    row = {
        "text": "9 tonight",
        "spans": [{"start": 0, "end": 9, "label": "time"}, {"start": 2, "end": 9, "label": "date"}],
    }
    assert spans_of(row) == ((0, 9, "time"), (2, 9, "date"))


TOKENS, TEXT = {"tokens": ["Ada", "ran"]}, {"text": "Ada ran"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**TOKENS, "tags": ["O"]}, r"column 'tags' has 1 tags for 2 tokens; each needs one: \[\"O\"\]"),
        ({**TOKENS, "tags": ["N-PER", "O"]}, r'"N-PER" in column \'tags\' is a tag of no known scheme; .*BIO .*BIOES'),
        ({**TOKENS, "tags": ["PER", "O"]}, '"PER" in column'),
        ({**TOKENS, "tags": ["B-", "O"]}, '"B-" in column'),
        ({**TOKENS, "tags": ["BI-PER", "O"]}, '"BI-PER" in column'),
        ({**TOKENS, "tags": ["B-O", "O"]}, '"B-O" in column'),
        ({**TOKENS, "tags": [1, 0]}, "1 in column 'tags' is a tag of no known scheme"),
        ({**TOKENS, "tags": "O O"}, 'must hold a list of tags, not "O O"'),
        ({**TOKENS, "spans": []}, "no column 'tags'; the columns there are: 'tokens', 'spans'"),
        ({"tokens": ["Ada", ""], "tags": ["O", "B-PER"]}, "a tag of 'PER' in column 'tags' stands on an empty token"),
        ({"tokens": "Ada ran", "tags": ["O", "O"]}, "column 'tokens' must hold a list of texts, not \"Ada ran\""),
        ({"tokens": ["Ada", 3], "tags": ["O", "O"]}, r'must hold a list of texts, not \["Ada", 3\]'),
        ({"text": 3, "spans": []}, "column 'text' must hold text, not 3"),
        ({**TEXT, "tags": []}, "no column 'spans'"),
        ({**TEXT, "spans": {}}, "column 'spans' must hold a list of spans, not {}"),
        ({**TEXT, "spans": ["PER"]}, 'must be an object, not "PER"'),
        ({**TEXT, "spans": [{"start": 0, "label": "PER"}]}, r'needs start and end.*got {"start": 0, "label": "PER"}'),
        ({**TEXT, "spans": [{"start": 0.0, "end": 3, "label": "PER"}]}, "needs start and end"),
        ({**TEXT, "spans": [{"start": 0, "end": 3}]}, "needs a label"),
        ({**TEXT, "spans": [{"start": 0, "end": 3, "label": "O"}]}, "other than 'O'"),
        ({**TEXT, "spans": [{"start": 4, "end": 8, "label": "PER"}]}, r'"end": 8.* outside its text, which has 7 char'),
        ({**TEXT, "spans": [{"start": 3, "end": 3, "label": "PER"}]}, "is empty or outside"),
        ({**TEXT, "spans": [{"start": -1, "end": 3, "label": "PER"}]}, "is empty or outside"),
        (
            {**TEXT, "spans": [{"start": 0, "end": 3, "label": "PER", "text": "Bob"}]},
            r'"text": "Bob".* does not say what stands there: "Ada"',
        ),
        ({**TEXT, "spans": [{"start": 0, "end": 3, "label": "CAR"}]}, "label 'CAR' is unknown to the model.*'PER'"),
    ],
)
def test_bad_rows_name_file_line_and_value(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    good = {"tokens": ["Ada"], "tags": ["B-PER"]}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: .*{message}"):
        read_labelled(str(path), TASK, ("O", "B-PER", "I-PER"))


# Scores


def answer_of(spans) -> list[dict]:
    return [{"entity_group": kind, "score": 0.5, "word": "", "start": start, "end": end} for start, end, kind in spans]


def test_span_scores_worked_by_hand():
    rights = [((0, 3, "PER"), (5, 8, "LOC")), (), ((0, 2, "PER"),)]
    answers = [[(0, 3, "PER"), (5, 9, "LOC")], [(1, 2, "ORG")], [(0, 2, "PER")]]
    found = TASK.score(rights, list(map(answer_of, answers)), Reading())
    assert found["precision"] == pytest.approx(2 / 4)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(4 / 7)
    assert found["f1_macro"] == pytest.approx((1 + 0 + 0) / 3)
    assert found["per_class"] == {
        "LOC": {"precision": 0, "recall": 0, "f1": 0, "spans": 1},
        "ORG": {"precision": 0, "recall": 0, "f1": 0, "spans": 0},
        "PER": {"precision": 1, "recall": 1, "f1": 1, "spans": 2},
    }
    nothing = TASK.score([()], [[]], Reading())
    assert nothing == {"precision": 0, "recall": 0, "f1": 0, "f1_macro": 0, "per_class": {}}


two_tags = st.tuples(*[st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])] * 2)


@example([[("B-a", "B-a"), ("I-a", "B-a")]])
@given(st.lists(st.lists(two_tags, max_size=8), min_size=1))
def test_span_scores_are_those_of_seqeval(rows):
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval is in the extra dev")
    wanted = [[one for one, _ in row] for row in rows]
    given_tags = [[other for _, other in row] for row in rows]
    found = TASK.score(
        [tuple(runs(tags)) for tags in wanted], [answer_of(runs(tags)) for tags in given_tags], Reading()
    )
    for name, function in (("precision", metrics.precision_score), ("recall", metrics.recall_score)):
        assert found[name] == pytest.approx(function(wanted, given_tags, zero_division=0))
    assert found["f1"] == pytest.approx(metrics.f1_score(wanted, given_tags, zero_division=0))
    if found["per_class"]:
        assert found["f1_macro"] == pytest.approx(
            metrics.f1_score(wanted, given_tags, average="macro", zero_division=0)
        )
    report = (
        metrics.classification_report(wanted, given_tags, output_dict=True, zero_division=0)
        if found["per_class"]
        else {}
    )
    for kind, values in found["per_class"].items():
        assert values["precision"] == pytest.approx(report[kind]["precision"])
        assert values["recall"] == pytest.approx(report[kind]["recall"])
        assert values["f1"] == pytest.approx(report[kind]["f1-score"])
        assert values["spans"] == report[kind]["support"]


def test_answers_agree_where_all_spans_do():
    spans = ((0, 3, "PER"), (5, 8, "LOC"))
    assert TASK.agrees(spans, answer_of(spans))
    assert not TASK.agrees(spans, answer_of(spans[:1]))
    assert TASK.predicted(answer_of(spans)) == spans


def test_tokens_without_aggregation_are_not_scored():
    answer = [{"entity": "B-PER", "score": 0.9, "index": 1, "word": "ada", "start": 0, "end": 3}]
    assert TASK.predicted(answer) == ((0, 3, "B-PER"),)
    with pytest.raises(InputError, match="another aggregation than none"):
        TASK.score([((0, 3, "PER"),)], [answer], Reading())
