"""``burnish bench``: turns, rows, the JSON that programs read, the table, and what is said when it cannot work."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from burnish_bench.cli import bench as command
from burnish_bench.config import BenchConfig
from burnish_bench.measure import measure_variants, num_turns
from burnish_bench.report import baseline_of
from burnish_bench.table import render
from burnish_bench.workload import golden_workload, random_batch, read_workload
from burnish_serve import TASKS, InputError, Runner, open_bundle
from burnish_serve.tasks import Asked, Encoded
from burnish_serve.text import TextEncoder

TINY = Path(__file__).parent / "tiny_bundle"
QUICK = ("--rounds", "1", "--seconds", "0", "--no-cold-start")
TASK = TASKS["text-classification"]


class Session:
    """Answers zeros, and writes down who was asked and with what shape."""

    def __init__(self, name: str, log: list[tuple[str, tuple[int, ...]]]) -> None:
        self.name, self.log = name, log

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> Sequence[Any]:
        """Return zeros ``[rows, 2]``."""
        shape = input_feed["input_ids"].shape
        self.log.append((self.name, shape))
        return [np.zeros((shape[0], 2), dtype=np.float32)]


def runner(name: str, log: list[tuple[str, tuple[int, ...]]]) -> Runner:
    return Runner(
        task=TASK,
        labels=("negative", "positive"),
        encoder=TextEncoder(TINY / "tokenizer.json", 16),
        session=Session(name, log),
        inputs=("input_ids", "attention_mask"),
        pad_token_id=0,
        variant=name,
    )


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def printed() -> str:
    """Return the text of a run of all variants with a sweep of two cells."""
    result = invoke(TINY, *QUICK, "--batch-sizes", "2", "--lengths", "4,16,64", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no progress bar where there is no terminal
    return result.stdout


def test_variants_are_measured_in_turns() -> None:
    log: list[tuple[str, tuple[int, ...]]] = []
    models = {name: runner(name, log) for name in ("a", "b")}
    ticks: list[None] = []
    config = BenchConfig(rounds=2, seconds=0)
    found = measure_variants(
        models,
        [{"text": "great film"}, {"text": "dull"}],
        config,
        baseline="a",
        leader="b",
        reference=lambda: log.append(("", (0,))),
        cells=[(3, 5)],
        tick=lambda: ticks.append(None),
    )
    whole, single, sweep = log[:9], log[9:15], log[15:]
    assert [name for name, _ in log] == ["a", "b", ""] * 3 + ["a", "b"] * 6  # each time a warm-up and two rounds
    assert {shape for name, shape in whole if name} == {(2, 4)}
    assert {shape[0] for _, shape in single} == {1}
    assert {shape for _, shape in sweep} == {(3, 5)}
    assert len(ticks) == num_turns(dataclasses.replace(config, cold_start=False), variants=2, cells=1) == 14
    assert found["a"].speedup.median == 1.0
    assert found["b"].latency.samples == 2
    assert [(cell.batch_size, cell.length) for cell in found["b"].sweep] == [(3, 5)]


def test_the_last_line_is_the_json(printed: str) -> None:
    data = json.loads(printed.splitlines()[-1])
    assert printed == f"{render(data)}\n{json.dumps(data, ensure_ascii=False)}\n"
    assert list(data["variants"]) == list(open_bundle(TINY).manifest.variants)


def test_the_shape_of_the_json(printed: str) -> None:
    data = json.loads(printed.splitlines()[-1])
    assert set(data) == {
        "bundle",
        "manifest_sha256",
        "task",
        "base_model",
        "versions",
        "measured_at",
        "machine",
        "provider",
        "threads",
        "rounds",
        "seconds",
        "rows",
        "metric",
        "baseline",
        "variants",
        "leader",
        "peers",
    }
    assert (data["provider"], data["threads"], data["rounds"], data["seconds"]) == ("CPUExecutionProvider", 1, 1, 0)
    assert (data["metric"], data["baseline"]) == ("accuracy", "fp32")
    assert set(data["rows"]) == {
        "source",
        "distinct",
        "texts",
        "cut",
        "mean_tokens",
        "max_length",
        "truncated",
        "padding",
    }
    assert (data["rows"]["source"], data["rows"]["texts"]) == ("golden rows", 256)
    for found in data["variants"].values():
        assert set(found) == {
            "file",
            "precision",
            "size_mb",
            "score",
            "batch_invariant",
            "nodes",
            "throughput",
            "speedup",
            "per_reference",
            "behind",
            "latency",
            "at_rates",
            "cold",
            "sweep",
        }
        assert set(found["throughput"]) == {"texts_per_second", "low", "high", "rounds"}
        assert set(found["speedup"]) == {"median", "low", "high"}
        assert found["latency"] == {"samples": 1, "p50_ms": None, "p95_ms": None, "p99_ms": None}
        assert [(cell["batch_size"], cell["length"]) for cell in found["sweep"]] == [(2, 4), (2, 16)]
        assert set(found["sweep"][0]) == {"batch_size", "length", "median_ms", "texts_per_second"}


def test_the_table(printed: str) -> None:
    lines = printed.splitlines()
    heads = "variant, MB, accuracy, texts/s, 95 % interval, x fp32, 95 % interval, p50 ms, p95 ms, p99 ms"
    assert re.split(r"\s{2,}", lines[0]) == heads.split(", ")
    first = lines[1].split()
    assert first[0] == "fp32"
    assert first[-5:] == ["1.00", "-", "-", "-", "-"]  # too little was measured for an interval or a percentile
    assert any(line.split()[:2] == ["2", "16"] for line in lines)
    assert "golden rows, repeated to 256" in printed
    assert "--data takes your own" in printed


def test_json_is_one_object_and_goes_to_a_file_too(tmp_path: Path) -> None:
    data, out = tmp_path / "rows.csv", tmp_path / "found.json"
    data.write_text("review,n\ngreat film,1\ndull,2\n" + "great " * 40 + ",3\n", encoding="utf-8")
    chosen = ("--variant", "int8", "--variant", "int8", "--no-sweep", "--text-column", "review", "--max-rows", "3")
    result = invoke(TINY, *QUICK, *chosen, "--data", data, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads(out.read_text(encoding="utf-8")) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "rows.csv"]
    assert (list(found["variants"]), found["baseline"]) == (["int8"], "int8")
    assert found["variants"]["int8"]["sweep"] == []
    assert found["rows"] == {
        "source": str(data),
        "distinct": 3,
        "texts": 3,
        "cut": False,
        "mean_tokens": 7.7,
        "max_length": 16,
        "truncated": 1,
        "padding": 0.0417,
    }
    text = render(found)
    assert f"3 of {data}, 7.7 tokens each in the mean; 4.2% of a batch is padding; cut at 16 tokens: 1" in text
    assert "session alone" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--variant", "int4"), "has no variant 'int4'; it has: fp32, int8"),
        (("--data", "none.jsonl"), "no such file: none.jsonl"),
        (("--data", "empty.jsonl"), "empty.jsonl has no rows"),
        (("--data", "other.jsonl"), "other.jsonl:1: no column 'text'; the columns there are: 'review'"),
        (("--out", "none/found.json"), "no such folder: none"),
        (("--out", "folder"), "--out is to be a file, and folder is a folder"),
    ],
)
def test_what_cannot_be_measured(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("\n", encoding="utf-8")
    Path("other.jsonl").write_text('{"review": "great"}\n', encoding="utf-8")
    Path("folder").mkdir()
    result = invoke(TINY, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("burnish: ")
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--batch-sizes", "1,x"), "batch_sizes must be whole numbers from 1"),
        (("--lengths", "0"), "lengths must be whole numbers from 1"),
        (("--threads", "0"), "threads must be at least 1, not 0"),
        (
            ("--rounds", "0", "--seconds", "-1"),
            "rounds must be at least 1, not 0; seconds must be at least 0, not -1.0",
        ),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], said: str) -> None:
    result = invoke(TINY, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Error: {said}" in result.stderr


def test_a_bundle_that_is_none_or_is_damaged(tmp_path: Path) -> None:
    result = invoke(tmp_path / "none", "--json")
    assert (result.exit_code, json.loads(result.stdout)["exit_status"]) == (1, 1)
    assert invoke(tmp_path).exit_code == 5
    shutil.copytree(TINY, tmp_path / "bundle")
    (tmp_path / "bundle" / "onnx" / "model.onnx").write_bytes(b"")
    assert invoke(tmp_path / "bundle").exit_code == 5


def test_rows_are_taken_up_to_a_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("great\ndull\nfilm\n", encoding="utf-8")
    found = read_workload(str(path), TASK, max_rows=2)
    assert (found.rows, found.distinct, found.cut) == (({"text": "great"}, {"text": "dull"}), 2, True)
    assert not read_workload(str(path), TASK, max_rows=3).cut


def test_golden_rows_are_needed_where_no_others_are_given() -> None:
    bundle = open_bundle(TINY)
    empty = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, golden_rows=()))
    with pytest.raises(InputError, match="give your own with --data"):
        golden_workload(empty)


def test_a_random_batch_has_only_tokens_of_real_rows() -> None:
    ids = np.array([3, 5, 8], dtype=np.int64)
    batch = random_batch([Asked({}, (), (Encoded(ids, ids, False),))], 4, 7)
    assert [row.ids.shape for row in batch] == [(7,)] * 4
    assert {int(token) for row in batch for token in row.ids} <= {3, 5, 8}
    assert not any(row.type_ids.any() for row in batch)


def test_lengths_are_cut_at_what_the_model_reads() -> None:
    config = BenchConfig(batch_sizes="8, 1", lengths="512,16,128")
    assert config.cells(max_length=64) == [(1, 16), (1, 64), (8, 16), (8, 64)]
    assert BenchConfig(sweep=False).cells(max_length=64) == []


def test_the_baseline_is_float32_where_it_was_measured() -> None:
    manifest = open_bundle(TINY).manifest
    assert baseline_of(manifest, ["int8", "fp32"]) == "fp32"
    assert baseline_of(manifest, ["int8"]) == "int8"


def test_the_command_is_light_at_import() -> None:
    script = "import json, sys, burnish_bench.cli; print(json.dumps(sorted(sys.modules)))"
    folder = Path(__file__).parents[1] / "bench"
    found = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert not {"onnxruntime", "torch", "pyarrow", "pytest"} & set(json.loads(found.stdout))
