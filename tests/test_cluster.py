"""Files answered on a Ray of this machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from burnish_serve.cli.predict import command
from burnish_serve.rows import read_rows
from burnish_serve.writing import RowWriter
from tiny_model import labelled_rows

pytest.importorskip("ray", reason="needs Ray: pip install 'burnish[ray]'")
# In processes of their own: Ray ends the one that it runs in where it is lost.
BURNISH = """
import ray
from burnish_serve.cli import main
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
main()
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    some = labelled_rows(500)
    path = tmp_path_factory.mktemp("rows") / "rows.csv.gz"
    with RowWriter(path) as writer:
        writer.write([{"id": n, "text": some[n % 500]["text"] * (1 + n % 7)} for n in range(10_007)])
    return path


def predict(*arguments: object, status: int = 0) -> str:
    words = [sys.executable, "-c", BURNISH, "predict", *map(str, arguments)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == status, done.stderr
    return done.stderr


def predict_here(*arguments: object) -> None:
    done = CliRunner().invoke(command, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def test_two_workers_give_the_same_answers_in_the_same_order(tiny_bundle, rows, tmp_path):
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    options = ("--variant", "int8", "--top-k", 2)
    predict_here(tiny_bundle, rows, "--out", here, *options)
    predict(tiny_bundle, rows, "--out", there, "--engine", "ray", "--workers", 2, *options)
    assert there.read_bytes() == here.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([here.name, there.name])


def test_a_shard_and_rows_that_are_set_aside(tiny_bundle, tmp_path):
    source, errors = tmp_path / "rows.jsonl", tmp_path / "errors.jsonl"
    lines = [json.dumps({"text": f"film {n}"}) for n in range(100)]
    lines[60] = "{"
    source.write_text("\n".join(lines))
    options = ("--engine", "ray", "--shard", "2/2", "--workers", 2)
    predict(tiny_bundle, source, "--out", tmp_path / "out.jsonl", "--errors", errors, *options)
    texts = [row["text"] for _, row in read_rows(tmp_path / "out.jsonl")]
    assert texts == [f"film {n}" for n in range(50, 100) if n != 60]
    assert [row["line"] for _, row in read_rows(errors)] == [61]
