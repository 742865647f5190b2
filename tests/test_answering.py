"""Windows of a file's lines: rows that ask the same are asked once, and each has its own answer and columns."""

from __future__ import annotations

import json

import pytest

from burnish_serve import load
from burnish_serve.answering import Answering
from burnish_serve.errors import InputError
from burnish_serve.runner import Runner

TEXTS = ["great film", "dull story", "great film", "film " * 30, "great film", "dull story", "film " * 30]


@pytest.fixture
def given(monkeypatch) -> list[int]:
    """Return a list that grows by the number of rows of each call of the model."""
    seen: list[int] = []
    outputs = Runner.outputs

    def watch(self, asked):
        seen.append(len(asked))
        return outputs(self, asked)

    monkeypatch.setattr(Runner, "outputs", watch)
    return seen


def window(texts, **columns):
    return [(number, {"id": number, "text": text, **columns}) for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_rows_that_ask_the_same_are_computed_once(tiny_bundle, given, variant):
    model = load(tiny_bundle, variant=variant, device="cpu", threads=1)
    answered = Answering(model, "rows.jsonl", "text", {}, keep_errors=False)(window(TEXTS))
    assert given == [3]
    assert (answered.repeated, answered.truncated, answered.lines) == (4, 2, 7)
    assert [row["id"] for row in answered.rows] == [1, 2, 3, 4, 5, 6, 7]
    for row, text in zip(answered.rows, TEXTS, strict=True):
        (alone,) = model([text])
        assert row["text"] == text
        assert row["answer"]["label"] == alone["label"]
        assert row["answer"]["score"] == pytest.approx(alone["score"], abs=1e-6)
        assert row["answer"].get("truncated") == alone.get("truncated")


def test_what_is_asked_decides_and_no_other_column(tiny_bundle, given):
    model = load(tiny_bundle, device="cpu", threads=1)
    ask = Answering(model, "rows.jsonl", "review", {"top_k": 2}, keep_errors=False)
    rows = [(1, {"review": "great film", "n": 1}), (2, {"n": 2, "review": "great film", "text": "no"})]
    answered = ask(rows)
    assert given == [1]
    assert [row["n"] for row in answered.rows] == [1, 2]
    assert answered.rows[0]["answer"] == answered.rows[1]["answer"]
    assert len(answered.rows[0]["answer"]) == 2
    json.dumps(answered.rows)


def test_a_row_that_cannot_be_asked_is_named_by_its_own_line(tiny_bundle, given):
    model = load(tiny_bundle, device="cpu", threads=1)
    rows = [(7, {"text": "film"}), (8, {"text": 5}), (9, {"text": 5}), (10, {"text": "film"})]
    with pytest.raises(InputError, match=r"^rows\.jsonl:8"):
        Answering(model, "rows.jsonl", "text", {}, keep_errors=False)(rows)
    answered = Answering(model, "rows.jsonl", "text", {}, keep_errors=True)(rows)
    assert [one["line"] for one in answered.wrong] == [8, 9]
    assert len(answered.rows) == 2


def test_the_same_text_in_tokens_of_its_own_is_not_the_same(given):
    """A tagger's row may bring its own words, which decide where spans may end."""

    class Tagger:
        class task:  # noqa: N801  # stands for a module's constant
            @staticmethod
            def asked(row, where, column):
                return {name: row[name] for name in ("tokens", "text") if name in row}

        @staticmethod
        def encode(rows, where):
            return [type("Asked", (), {"row": row, "truncated": False})() for row in rows]

        @staticmethod
        def answers(asked, **_):
            return [[one.row] for one in asked]

    rows = [{"tokens": ["ab", "c"]}, {"text": "ab c"}, {"tokens": ["ab", "c"]}, {"tokens": ["a", "b c"]}]
    answered = Answering(Tagger, "rows", "text", {}, keep_errors=False)(list(enumerate(rows, 1)))
    assert [row["answer"] for row in answered.rows] == [[row] for row in rows]
    assert answered.repeated == 1
