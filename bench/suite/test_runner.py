"""The runner's steps after tokenization: plan, pad, run, decode; and whole calls of one row and of many.

pytest bench/suite/test_runner.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from burnish_serve import Runner, batching
from burnish_serve.runner import model_inputs
from burnish_serve.tasks import Asked


def test_plan(benchmark: BenchmarkFixture, model: Runner, encoded: list[Asked]) -> None:
    """Sorting 256 rows by length into batches."""
    batches = benchmark(batching.plan, [row.tokens for row in encoded], model.max_batch_tokens, model.run_tokens)
    assert sum(map(len, batches)) == len(encoded)


def test_pad(benchmark: BenchmarkFixture, model: Runner, encoded: list[Asked]) -> None:
    """Ids, mask and types of one batch of 32."""
    batch = [window for row in encoded[:32] for window in row.windows]
    arrays = benchmark(model_inputs, batch, model.inputs, model.pad_token_id)
    assert len(arrays[model.inputs[0]]) == 32


def test_session_run(benchmark: BenchmarkFixture, model: Runner, encoded: list[Asked]) -> None:
    """The model alone on one batch of 32."""
    batch = [window for row in encoded[:32] for window in row.windows]
    arrays = model_inputs(batch, model.inputs, model.pad_token_id)
    assert benchmark(model.session.run, model.task.outputs, arrays)[0].shape == (32, len(model.labels))


def test_decode(benchmark: BenchmarkFixture, model: Runner, encoded: list[Asked]) -> None:
    """Logits of 256 rows to the best answer of each."""
    outputs = model.outputs(encoded)
    assert len(benchmark(model.decode, encoded, outputs)) == len(encoded)


def test_decode_all(benchmark: BenchmarkFixture, model: Runner, encoded: list[Asked]) -> None:
    """Logits of 256 rows to every label, best first."""
    outputs = model.outputs(encoded)
    assert len(benchmark(model.decode, encoded, outputs, top_k=None)) == len(encoded)


def test_call_one_row(benchmark: BenchmarkFixture, model: Runner, rows: list[dict[str, Any]]) -> None:
    """The latency of one text."""
    assert len(benchmark(model, rows[:1])) == 1


def test_call(benchmark: BenchmarkFixture, model: Runner, rows: list[dict[str, Any]]) -> None:
    """A whole call on 256 rows."""
    assert len(benchmark(model, rows)) == len(rows)
