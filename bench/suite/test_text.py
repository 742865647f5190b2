"""Tokenization: of many texts, of one, and of one far longer than the model reads.

pytest bench/suite/test_text.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from burnish_serve import Runner


def test_encode_rows(benchmark: BenchmarkFixture, model: Runner, rows: list[dict[str, Any]]) -> None:
    """256 rows of mixed lengths."""
    assert len(benchmark(model.encode, rows)) == len(rows)


def test_encode_one_row(benchmark: BenchmarkFixture, model: Runner, rows: list[dict[str, Any]]) -> None:
    """What tokenization adds to the latency of one text."""
    assert len(benchmark(model.encode, rows[:1])) == 1


def test_encode_long_row(benchmark: BenchmarkFixture, model: Runner, rows: list[dict[str, Any]]) -> None:
    """A text a thousand times as long as a golden one, of which all but the start is dropped."""
    long = {column: f"{text} " * 1000 for column, text in rows[0].items()}
    assert benchmark(model.encode, [long])[0].truncated
