"""The runner's steps after tokenization: plan, pad, run, decode; and whole calls of one row and of many.

pytest bench/suite/test_runner.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from burnish_serve import Runner, batching
from burnish_serve.runner import model_inputs
from burnish_serve.text import Encoded


def test_plan(benchmark: BenchmarkFixture, model: Runner, encoded: list[Encoded]) -> None:
    """Sorting 256 rows by length into batches."""
    batches = benchmark(batching.plan, [len(row.ids) for row in encoded], model.max_batch_tokens)
    assert sum(map(len, batches)) == len(encoded)


def test_pad(benchmark: BenchmarkFixture, model: Runner, encoded: list[Encoded]) -> None:
    """Ids, mask and types of one batch of 32."""
    arrays = benchmark(model_inputs, encoded[:32], model.inputs, model.pad_token_id)
    assert len(arrays[model.inputs[0]]) == 32


def test_session_run(benchmark: BenchmarkFixture, model: Runner, encoded: list[Encoded]) -> None:
    """The model alone on one batch of 32."""
    arrays = model_inputs(encoded[:32], model.inputs, model.pad_token_id)
    assert benchmark(model.session.run, model.task.outputs, arrays)[0].shape == (32, len(model.labels))


def test_decode(benchmark: BenchmarkFixture, model: Runner, encoded: list[Encoded]) -> None:
    """Logits of 256 rows to the best answer of each."""
    logits = model.run(encoded)
    assert len(benchmark(model.task.decode, logits, model.labels, model.problem_type, 1)) == len(encoded)


def test_decode_all(benchmark: BenchmarkFixture, model: Runner, encoded: list[Encoded]) -> None:
    """Logits of 256 rows to every label, best first."""
    logits = model.run(encoded)
    assert len(benchmark(model.task.decode, logits, model.labels, model.problem_type, None)) == len(encoded)


def test_call_one_row(benchmark: BenchmarkFixture, model: Runner, rows: list[dict[str, Any]]) -> None:
    """The latency of one text."""
    assert len(benchmark(model, rows[:1])) == 1


def test_call(benchmark: BenchmarkFixture, model: Runner, rows: list[dict[str, Any]]) -> None:
    """A whole call on 256 rows."""
    assert len(benchmark(model, rows)) == len(rows)
