"""Long passes over files: stopped anywhere and gone on with, in parts, and with rows that cannot be answered."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from burnish_serve.answering import Answered
from burnish_serve.cli.predict import command
from burnish_serve.errors import InputError
from burnish_serve.job import Job
from burnish_serve.rows import read_rows
from burnish_serve.runner import WINDOW
from burnish_serve.writing import RowWriter
from tiny_model import labelled_rows

pytestmark = pytest.mark.usefixtures("one_thread")
WINDOWS = 6
ENDINGS = [".jsonl", ".csv", ".parquet", ".jsonl.gz", ".tsv.zst"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Return a file of several windows of rows."""
    some = labelled_rows(500)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with RowWriter(path) as writer:
        writer.write([{"id": n, "text": f"{some[n % 500]['text']} {n}"} for n in range(WINDOWS * WINDOW - 100)])
    return path


def predict(*arguments: object, status: int = 0) -> str:
    done = CliRunner().invoke(command, list(map(str, arguments)))
    assert done.exit_code == status, done.output
    return done.stderr


def start(*arguments: object) -> subprocess.Popen:
    code = "from burnish_serve.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, "predict", *map(str, arguments)], stderr=subprocess.PIPE)


def done_in(folder: Path) -> int:
    """Return how many rows a run has behind it, by its own notes."""
    try:
        return json.loads((folder / ".out.jsonl.progress").read_text())["rows"]
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("windows", [1, 4])
def test_a_killed_run_goes_on_to_the_same_bytes(tiny_bundle, rows, tmp_path, windows):
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    arguments = (tiny_bundle, rows, "--threads", 1)
    run = start(*arguments, "--out", out)
    while done_in(tmp_path) < windows * WINDOW and run.poll() is None:
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not out.exists()
    behind = done_in(tmp_path)
    assert windows * WINDOW <= behind < WINDOWS * WINDOW
    with (tmp_path / ".out.jsonl.partial").open("ab") as file:  # what was written behind the last note
        file.write(b'{"id": "half a ro')
    told = predict(*arguments, "--out", out, status=1)
    assert f"{behind} rows of it are done; --resume goes on, --overwrite begins again" in told
    predict(*arguments, "--out", out, "--resume")
    predict(*arguments, "--out", whole)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "whole.jsonl"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_goes_on_where_it_was_stopped(tiny_bundle, rows, tmp_path, ending, monkeypatch):
    out, whole = tmp_path / f"out{ending}", tmp_path / f"whole{ending}"
    write = Job.write

    def stop(self, answered):
        write(self, answered)
        if self.rows == 2 * WINDOW:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "write", stop)
        told = predict(tiny_bundle, rows, "--out", out, status=1)
    assert told == f"burnish: interrupted; {2 * WINDOW} rows are done: the same command with --resume goes on\n"
    predict(tiny_bundle, rows, "--out", out, "--resume")
    predict(tiny_bundle, rows, "--out", whole)
    assert out.read_bytes() == whole.read_bytes()
    assert [int(row["id"]) for _, row in read_rows(out)] == list(range(WINDOWS * WINDOW - 100))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, whole.name])


def test_rows_that_cannot_be_answered_are_set_aside(tiny_bundle, tmp_path):
    source, out, errors = (tmp_path / name for name in ("rows.jsonl", "out.jsonl", "errors.jsonl"))
    lines = [json.dumps({"text": f"film {n}"}) for n in range(WINDOW + 20)]
    lines[3], lines[7], lines[WINDOW + 5] = "{", '{"body": "x"}', '{"text": 5}'
    source.write_text("\n".join(lines) + "\n")
    told = predict(tiny_bundle, source, "--out", out, "--errors", errors)
    assert f"warning: 3 rows could not be answered; {errors} says why" in told
    found = [row for _, row in read_rows(errors)]
    assert [row["line"] for row in found] == [4, 8, WINDOW + 6]
    assert [row.get("row") for row in found] == [None, {"body": "x"}, {"text": 5}]
    assert all(row["error"].startswith(f"{source}:{row['line']}: ") for row in found)
    answered = [row["text"] for _, row in read_rows(out)]
    assert answered == [f"film {n}" for n in range(WINDOW + 20) if n not in {3, 7, WINDOW + 5}]


def test_a_bad_row_late_in_a_file_loses_nothing(tiny_bundle, rows, tmp_path):
    source, out, errors = (tmp_path / name for name in ("rows.jsonl", "out.jsonl", "errors.jsonl"))
    lines = rows.read_text().splitlines()[: WINDOW + 50]
    source.write_text("\n".join([*lines, "{", *lines[:10]]) + "\n")
    told = predict(tiny_bundle, source, "--out", out, status=1)
    assert f"rows.jsonl:{WINDOW + 51}: not a JSON object" in told
    assert f"{WINDOW} rows are done: --resume goes on, and with --errors FILE" in told
    predict(tiny_bundle, source, "--out", out, "--resume", "--errors", errors)
    assert len(out.read_text().splitlines()) == WINDOW + 60
    assert [row["line"] for _, row in read_rows(errors)] == [WINDOW + 51]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".txt"])
def test_shards_laid_end_to_end_are_the_whole(tiny_bundle, tmp_path, ending):
    source = tmp_path / f"rows{ending}"
    texts = [f"film {n}" for n in range(103)]
    if ending == ".txt":
        source.write_text("\n\n".join(texts))  # blank lines are none of them
    else:
        with RowWriter(source) as writer:
            writer.write([{"text": text} for text in texts])
    found = []
    for which in range(1, 8):
        out = tmp_path / f"out-{which}.jsonl"
        predict(tiny_bundle, source, "--out", out, "--shard", f"{which}/7")
        found.append([row["text"] for _, row in read_rows(out)])
    assert [text for part in found for text in part] == texts
    assert max(map(len, found)) - min(map(len, found)) <= 2


def test_a_run_is_gone_on_with_as_it_was_begun(tiny_bundle, rows, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    write = Job.write
    with monkeypatch.context() as patch:
        patch.setattr(Job, "write", lambda self, answered: (write(self, answered), os.kill(os.getpid(), signal.SIGINT)))
        predict(tiny_bundle, rows, "--out", out, status=1)
    told = predict(tiny_bundle, rows, "--out", out, "--resume", "--top-k", "all", status=1)
    assert "was begun otherwise: options was " in told
    other = tmp_path / "other.jsonl"
    other.write_bytes(rows.read_bytes())
    assert "input was " in predict(tiny_bundle, other, "--out", out, "--resume", status=1)
    predict(tiny_bundle, other, "--out", out, "--overwrite", "--top-k", "all")
    assert isinstance(next(row for _, row in read_rows(out))["answer"], list)
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "other.jsonl"}


def test_a_run_that_begins_again_leaves_no_older_note(tmp_path):
    out, told = tmp_path / "out.jsonl", {"a": 1}

    def stop(job):
        with contextlib.suppress(KeyboardInterrupt), job:
            job.write(Answered([{"n": 1}] * 3, [], 0, 0, 3))
            raise KeyboardInterrupt

    stop(Job(out, told))
    note = tmp_path / ".out.jsonl.progress"
    with Job(out, told, overwrite=True):
        assert not note.exists()
    stop(Job(out, told))
    (tmp_path / ".out.jsonl.partial").write_text("short")
    with pytest.raises(InputError, match=r"is shorter than .*progress says; --overwrite begins again"):
        Job(out, told, resume=True)
    with pytest.raises(InputError, match="cannot hold both the answers and the rows that have none"):
        Job(out, told, errors=tmp_path / "." / "out.jsonl", overwrite=True)


def test_only_one_run_writes_to_a_file(tmp_path):
    with Job(tmp_path / "out.jsonl", {"a": 1}) as job:
        with pytest.raises(InputError, match="another run is writing"), Job(tmp_path / "out.jsonl", {"a": 1}):
            pass
        job.write(Answered([{"n": 1}], [], 0, 0, 1))
    assert (tmp_path / "out.jsonl").read_text() == '{"n": 1}\n'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-", "--resume", "--out", "x.jsonl"), "need a file to read"),
        (("rows.jsonl", "--resume"), "--resume needs --out"),
        (("rows.jsonl", "--shard", "3/2"), "'3/2' is no part of a file; the second of eight is 2/8"),
        (("rows.jsonl", "--shard", "0/2"), "no part of a file"),
        (("rows.jsonl", "--shard", "half"), "no part of a file"),
        (("-", "--engine", "ray"), "--engine ray needs a file to read"),
        (("rows.jsonl", "--workers", 2), "--workers is for --engine ray"),
    ],
)
def test_what_cannot_be_asked_is_said(tiny_bundle, arguments, said):
    assert said in predict(tiny_bundle, *arguments, status=2)
