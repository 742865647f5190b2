"""What ``burnish bench`` tells of fresh processes and of texts that come at random."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from burnish_bench import arrivals
from burnish_bench.cli import bench as command
from burnish_bench.cold import ColdStart
from burnish_bench.config import BenchConfig
from burnish_serve import BurnishError, InputError

TINY = Path(__file__).parent / "tiny_bundle"
ROWS: list[Any] = [{"text": "great film"}, {"text": "dull"}, {"text": "great"}]


class Clock:
    """A clock that moves when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def model(self, seconds: float, log: list[list[Any]]) -> Callable[[Sequence[Any]], None]:
        """Return what answers any rows in so many seconds."""

        def answer(rows: Sequence[Any]) -> None:
            log.append(list(rows))
            self.now += seconds

        return answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(arrivals, "time", made)
    return made


def test_a_wait_counts_from_when_a_text_came(clock: Clock) -> None:
    log: list[list[Any]] = []
    waits = arrivals.serve(clock.model(1.0, log), ROWS, np.array([0.5, 0.6, 0.75, 4.0]))
    assert waits.tolist() == pytest.approx([1.0, 1.9, 1.75, 1.0])
    assert log == [[ROWS[0]], [ROWS[1], ROWS[2]], [ROWS[0]]]  # those that came meanwhile are answered together


def test_all_models_get_the_same_texts_in_turns(clock: Clock) -> None:
    fast: list[list[Any]] = []
    slow: list[list[Any]] = []
    ticks: list[None] = []
    models = {"fast": clock.model(0.001, fast), "slow": clock.model(0.1, slow)}
    found = arrivals.at_rate(models, ROWS, 50, rounds=4, seconds=8, tick=lambda: ticks.append(None))
    assert len(ticks) == 8
    counts = {name: one.latency.samples for name, one in found.items()}
    assert counts["fast"] == counts["slow"] == pytest.approx(400, rel=0.2)
    assert len(slow) < len(fast)
    for one, least in ((found["fast"], 1.0), (found["slow"], 100.0)):
        assert one.rate == 50
        assert one.answered == pytest.approx(50, rel=0.2)
        assert one.latency.p50_ms is not None
        assert one.latency.p50_ms >= least
    assert found["fast"].latency.p50_ms < 2
    assert found["fast"].latency.p99_ms is None  # of 400


def test_a_queue_that_grows_is_seen(clock: Clock) -> None:
    def one_by_one(rows: Sequence[Any]) -> None:
        clock.now += 0.04 * len(rows)

    found = arrivals.at_rate({"a": one_by_one}, ROWS, 50, rounds=2, seconds=20)["a"]
    assert found.answered == pytest.approx(25, rel=0.1)
    assert found.latency.p95_ms > 3_000


def test_a_fresh_process_is_timed_to_its_first_answer() -> None:
    start = ColdStart(str(TINY), ROWS, variant="int8", threads=1)
    began = time.perf_counter()
    for _ in range(3):
        start()
    took = time.perf_counter() - began
    found = start.result()
    assert found.seconds.low is None  # two are counted
    assert found.imports + found.load + found.first < found.seconds.median < took / 2
    assert min(found.imports, found.load, found.first) > 0
    assert found.peak_mb is not None
    assert 20 < found.peak_mb < 1_000


def test_the_first_process_is_not_counted() -> None:
    start = ColdStart(str(TINY), ROWS)
    for seconds in (9.0, 1.0, 2.0):
        start._seconds.append(seconds)
        start._parts.append([seconds] * 3)
    start._peaks += [30.0, 20.0, None]
    found = start.result()
    assert (found.seconds.median, found.imports, found.load, found.first, found.peak_mb) == (1.5, 1.5, 1.5, 1.5, 30.0)


def test_files_beside_the_user_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizers.py").write_text("raise SystemExit('a script of the user')\n")
    monkeypatch.chdir(tmp_path)
    start = ColdStart(str(TINY), ROWS, variant="int8", threads=1)
    start()
    assert start.result().seconds.median > 0


def test_memory_is_that_of_all_rows() -> None:
    peaks = []
    for rows in (ROWS[:1], [{"text": "great film " * 2_000}] * 2_000):
        start = ColdStart(str(TINY), rows, variant="fp32", threads=1)
        start()
        peaks.append(start.result().peak_mb or 0)
    assert peaks[1] > peaks[0] + 20


def test_a_process_that_cannot_answer_says_why(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "bundle")
    start = ColdStart(str(tmp_path / "bundle"), ROWS, variant="int8")
    start()
    (tmp_path / "bundle" / "tokenizer.json").unlink()
    with pytest.raises(BurnishError, match=r"a fresh process could not answer: .*tokenizer\.json"):
        start()


def test_a_process_that_ends_before_it_was_told_all_is_no_traceback() -> None:
    start = ColdStart(str(TINY), ROWS, variant="int8")
    start._command = [sys.executable, "-c", "import os; os.close(0); os.write(2, b'out of memory'); os._exit(1)"]
    with pytest.raises(BurnishError, match="a fresh process could not answer: out of memory"):
        start()


def test_both_stand_in_the_tables_and_the_json() -> None:
    quick = ("--rounds", "1", "--seconds", "0.1", "--no-sweep", "--threads", "1", "--arrival-rates", "200,50")
    result = CliRunner().invoke(command, [str(TINY), *quick])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout.splitlines()[-1])
    for found in data["variants"].values():
        assert [one["rate"] for one in found["at_rates"]] == [50, 200]
        assert set(found["at_rates"][0]) == {"rate", "answered", "latency"}
        assert set(found["cold"]) == {"seconds", "imports", "load", "first", "peak_mb"}
    assert "texts that come at random" in result.stdout
    assert "a fresh process" in result.stdout


@pytest.mark.parametrize("rates", ["0", "1,x", "5;6", "-1"])
def test_a_rate_that_is_none_is_said(rates: str) -> None:
    with pytest.raises(InputError, match="arrival_rates must be whole numbers from 1"):
        BenchConfig(arrival_rates=rates)
