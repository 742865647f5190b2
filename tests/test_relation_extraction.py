"""Relations: markers and spans as users write them, the official score by hand, and markers as tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from burnish_serve.cli import main
from burnish_serve.config import configure
from burnish_serve.errors import InputError
from burnish_serve.tasks import Reading, task_named
from burnish_serve.tasks.pooling import POOLINGS, at_token, mean
from burnish_serve.tasks.relation_extraction import MARKERS, relation, texts
from burnish_train import TrainConfig
from burnish_train.heads import PooledClassifier
from burnish_train.vocabulary import add_tokens
from tiny_model import make_encoder, make_tokenizer, write_rows

TASK = task_named("relation-extraction")
MARKED = "the <e1> flood </e1> came from <e2> rain </e2>."


def read(row):
    """Return what the model reads of a row of a file."""
    return TASK.texts(TASK.asked(row, "rows.jsonl:3"), "rows.jsonl:3")


def score(rights, found):
    answers = [{"label": label, "score": 0.5} for label in found]
    return TASK.score(rights, answers, Reading(labels=tuple(sorted({*rights, *found}))))


# Rows


def test_a_text_with_markers_is_read_as_it_stands():
    assert read({"text": MARKED}) == (MARKED,)
    assert read({"text": "<e2>雨</e2>带来<e1>洪水</e1>"}) == ("<e2>雨</e2>带来<e1>洪水</e1>",)
    assert TASK.asked(MARKED, "row 1") == {"text": MARKED}


@pytest.mark.parametrize(
    ("text", "first", "second", "marked"),
    [
        ("the flood came from rain.", [4, 9], [20, 24], MARKED),
        ("the flood came from rain.", "[4, 9]", "[20,24]", MARKED),
        ("rain made it", [8, 12], [0, 4], "<e2> rain </e2> mad<e1> e it </e1>"),
        ("👩‍👩‍👧暴雨", [0, 5], [5, 7], "<e1> 👩‍👩‍👧 </e1><e2> 暴雨 </e2>"),
    ],
)
def test_spans_become_markers(text, first, second, marked):
    assert read({"text": text, "e1": first, "e2": second}) == (marked,)


@given(st.text("ab 雨👍", min_size=3), st.data())
def test_marked_spans_hold_the_words_they_point_at(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=3, max_size=4)))
    first, second = (cuts[0], cuts[1]), (cuts[-2], cuts[-1])
    if not text[slice(*first)].strip() or not text[slice(*second)].strip():
        return
    if data.draw(st.booleans()):
        first, second = second, first
    (marked,) = read({"text": text, "e1": list(first), "e2": list(second)})
    for name, span in (("1", first), ("2", second)):
        assert marked.partition(f"<e{name}> ")[2].partition(f" </e{name}>")[0] == text[slice(*span)]
    plain = marked
    for marker in ("<e1> ", " </e1>", "<e2> ", " </e2>"):
        plain = plain.replace(marker, "")
    assert plain == text
    assert texts({"text": marked}, "row 1") == (marked,), "what was made here is taken as written"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "no markers at all"}, "the marker <e1> is missing: 'no markers at all'"),
        ({"text": "<e1> a </e1> <e2> b"}, "the marker </e2> is missing"),
        ({"text": "<e1> a </e1> <e1> b </e1> <e2> c </e2>"}, "the marker <e1> stands 2 times, not once"),
        ({"text": "<e1> a <e2> b </e1> c </e2>"}, "the marker <e1> is followed by <e2>"),
        ({"text": "<e1> a <e2> b </e2> c </e1>"}, "the marker <e1> is followed by <e2>"),
        ({"text": "</e1> a <e1> <e2> b </e2>"}, "the marker </e1> is followed by <e1>"),
        ({"text": "<e1> a </e1> </e2> b <e2>"}, "the marker </e2> is followed by <e2>"),
        ({"text": "<e1> </e1> is <e2> b </e2>"}, "nothing stands between <e1> and </e1>"),
        ({"text": "ab cd", "e1": [0, 2], "e2": [3, 6]}, r"the span e2 \[3, 6\] is not in the text of 5 characters"),
        ({"text": "ab cd", "e1": [-2, 1], "e2": [3, 5]}, r"the span e1 \[-2, 1\] is not in the text"),
        ({"text": "ab cd", "e1": [2, 2], "e2": [3, 5]}, r"the span e1 \[2, 2\] is not in the text"),
        ({"text": "ab cd", "e1": [2, 3], "e2": [3, 5]}, r"the span e1 \[2, 3\] .* holds nothing"),
        ({"text": "ab cd", "e1": [0, 4], "e2": [3, 5]}, r"the spans e1 \[0, 4\] and e2 \[3, 5\] overlap"),
        ({"text": "ab cd", "e1": [3, 5], "e2": [0, 5]}, r"the spans e1 \[3, 5\] and e2 \[0, 5\] overlap"),
        ({"text": "ab cd", "e1": [0, 2], "e2": [0, 2]}, "overlap"),
        ({"text": "ab cd", "e1": "0-2", "e2": [3, 5]}, r"column 'e1' must hold a span .*, not \"0-2\""),
        ({"text": "ab cd", "e1": [0, 2], "e2": [3.0, 5]}, r"column 'e2' must hold a span .*, not \[3.0, 5\]"),
        ({"text": "ab cd", "e1": [False, True], "e2": [3, 5]}, "column 'e1' must hold a span"),
        ({"text": "ab cd", "e1": [0, 1, 2], "e2": [3, 5]}, "column 'e1' must hold a span"),
        ({"text": 7, "e1": [0, 2], "e2": [3, 5]}, "column 'text' must hold text, not 7"),
        ({"text": "<e1> a </e1> b", "e1": [5, 6], "e2": [13, 14]}, "the text has a marker <e1> at 0 already"),
    ],
)
def test_rows_that_cannot_be_read_are_said_with_file_line_and_value(row, said):
    with pytest.raises(InputError, match=rf"^rows\.jsonl:3: .*{said}"):
        read(row)


def test_the_command_names_file_and_line(bundle_copy, edit_manifest, tmp_path):
    edit_manifest(bundle_copy, task="relation-extraction")
    path = write_rows(
        tmp_path / "rows.jsonl", [{"text": MARKED, "label": "positive"}, {"text": "a", "label": "positive"}]
    )
    for arguments in (["predict", bundle_copy, path], ["evaluate", bundle_copy, "--data", path]):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 1
        assert f"{path}:2: the marker <e1> is missing: 'a'" in result.stderr


# The official score


def test_the_official_score_worked_by_hand():
    # A: of 3 due and 4 given in any direction 1 is right in relation and direction; B: of 2 due and 1 given, 1.
    rights = ["A(e1,e2)", "A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "B(e1,e2)", "Other", "Other"]
    found = ["A(e1,e2)", "A(e2,e1)", "A(e1,e2)", "B(e1,e2)", "Other", "A(e1,e2)", "Other"]
    metrics = score(rights, found)
    a, b = (2 * 1 / (3 + 4)), (2 * 1 / (2 + 1))
    assert metrics["f1_official"] == pytest.approx((a + b) / 2)
    assert metrics["precision_official"] == pytest.approx((1 / 4 + 1) / 2)
    assert metrics["recall_official"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert metrics["accuracy"] == pytest.approx(3 / 7)
    assert metrics["per_class"]["A"] == pytest.approx({"precision": 1 / 4, "recall": 1 / 3, "f1": a, "rows": 3})
    assert metrics["per_class"]["Other"]["rows"] == 2


def test_an_answer_in_the_wrong_direction_costs_precision_and_recall():
    right = score(["A(e1,e2)"] * 4, ["A(e1,e2)"] * 3 + ["Other"])
    turned = score(["A(e1,e2)"] * 4, ["A(e1,e2)"] * 3 + ["A(e2,e1)"])
    assert (right["precision_official"], right["recall_official"]) == (1, 0.75)
    assert (turned["precision_official"], turned["recall_official"]) == (0.75, 0.75)


def test_a_relation_that_no_row_has_does_not_count_but_takes_rows_from_the_others():
    metrics = score(["A(e1,e2)", "A(e1,e2)"], ["A(e1,e2)", "C(e1,e2)"])
    assert metrics["f1_official"] == pytest.approx(2 / 3)
    assert metrics["per_class"]["C"]["f1"] == 0


@pytest.mark.parametrize("found", [["Other", "Other"], ["A(e1,e2)", "Other"]])
def test_rows_without_any_relation_score_nothing(found):
    assert score(["Other", "Other"], found)["f1_official"] == 0


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from([*"ABC", "Other"])), min_size=1, max_size=30))
def test_labels_without_direction_give_plain_macro_f1(pairs):
    rights, found = zip(*pairs, strict=True)
    expected = f1_score(rights, found, labels=sorted(set(rights)), average="macro", zero_division=0)
    assert score(rights, found)["f1_official"] == pytest.approx(expected)


def test_directions_are_cut_from_the_end_of_a_label_alone():
    assert [relation(label) for label in ("A(e1,e2)", "A(e2,e1)", "Other", "(e1,e2) of", "A (x)")] == [
        "A",
        "A",
        "Other",
        "(e1,e2) of",
        "A (x)",
    ]


# Markers as tokens


def test_markers_are_one_token_each_in_a_tokenizer_that_lowers_and_splits(tmp_path):
    make_encoder(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path)
    before = model.embeddings.word_embeddings.weight.detach().clone()
    tokenizer = make_tokenizer()
    assert len(tokenizer.tokenize("<e1>")) > 1
    torch.manual_seed(0)
    add_tokens(tokenizer, model, MARKERS)
    after = model.embeddings.word_embeddings.weight.detach()
    assert len(after) == len(before) + 4 == len(tokenizer) == model.config.vocab_size
    assert torch.equal(after[: len(before)], before)
    new = after[len(before) :]
    assert len(torch.unique(new, dim=0)) == 4
    assert (new - before.mean(0)).abs().max() < 3 * before.std()
    add_tokens(tokenizer, model, MARKERS)
    assert len(tokenizer) == len(before) + 4, "what is there is not added again"
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.tokenize("the<e1>MUSIC</e1>, <e2> song </e2>") == [
        *("the", "<e1>", "music", "</e1>", ",", "<e2>", "song", "</e2>")
    ]
    assert "<e1>" not in again.tokenize("<E1> song"), "what the task does not take for a marker is none"
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in settings, "transformers 4.57 does not load a list there"


def test_a_table_with_rows_to_spare_does_not_shrink_and_gets_new_vectors_there(tmp_path):
    make_encoder(tmp_path)
    model, tokenizer = transformers.AutoModel.from_pretrained(tmp_path), make_tokenizer()
    model.resize_token_embeddings(len(tokenizer) + 10)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[len(tokenizer) :] = 99
    known = len(tokenizer)
    add_tokens(tokenizer, model, MARKERS)
    table = model.embeddings.word_embeddings.weight
    assert len(table) == known + 10
    assert (table[known : known + 4] < 50).all()
    assert (table[known + 4 :] == 99).all()


# What the head reads


def test_the_vectors_at_markers_are_those_at_their_places():
    hidden, ids = torch.randn(3, 5, 4), torch.tensor([[1, 7, 2, 9, 0], [9, 1, 7, 0, 0], [1, 2, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    first, second, whole = POOLINGS["markers-mean"].vectors(hidden, mask, ids, (7, 9))
    assert torch.equal(first, torch.stack([hidden[0, 1], hidden[1, 2], torch.zeros(4)]))
    assert torch.equal(second, torch.stack([hidden[0, 3], hidden[1, 0], torch.zeros(4)])), "a lost marker is zeros"
    expected = torch.stack([row[:count].mean(0) for row, count in zip(hidden, mask.sum(1), strict=True)])
    assert torch.allclose(whole, expected, atol=1e-6)
    assert torch.equal(mean(hidden, mask), whole)
    np.testing.assert_array_equal(at_token(hidden.numpy(), mask.numpy(), ids.numpy(), 7), first.numpy())


def test_a_marker_that_stands_twice_is_read_as_the_mean_and_padding_not_at_all():
    hidden, ids = torch.randn(1, 4, 4), torch.tensor([[7, 7, 1, 7]])
    assert torch.allclose(at_token(hidden, torch.tensor([[1, 1, 1, 0]]), ids, 7)[0], hidden[0, :2].mean(0))


def test_the_head_has_a_column_for_each_number_of_each_vector(tmp_path):
    encoder = transformers.AutoModel.from_pretrained(make_encoder(tmp_path))
    for name, vectors in (("mean", 1), ("markers", 2), ("markers-mean", 3)):
        assert PooledClassifier(encoder, 5, name).classifier.weight.shape == (5, 32 * vectors)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"pooling": "markers"},
            "'markers' reads <e1>, <e2>, and text-classification has no .* it is for relation-ext",
        ),
        ({"pooling": "mean", "task": "feature-extraction"}, "'mean' is for tasks that answer about a whole text"),
        ({"reject_label": "oos", "task": "regression"}, "'oos' is for tasks that give one label, not regression"),
        ({"class_weights": "sqrt", "task": "regression"}, "'sqrt' is for tasks that give labels, not regression"),
        ({"class_weights": "sqrt", "task": "question-answering"}, "for tasks that give labels, not question-answering"),
        ({"tag_scheme": "BIOES"}, "'BIOES' is for token-classification, not text-classification"),
        ({"label_inner_words": False}, "label_inner_words is for token-classification, not text-classification"),
    ],
)
def test_a_setting_that_a_task_has_no_use_for_is_said(settings, said, tmp_path):
    with pytest.raises(InputError, match=said):
        configure(TrainConfig, {}, model="m", train="t", out=tmp_path, **settings)
