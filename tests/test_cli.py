"""The command as people and scripts use it: what goes in comes out with its answer, and every error is one sentence.

Most tests call it in this process, which is quick; pipes, signals and full disks need a process of their own.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import resource
import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from burnish_serve import open_bundle
from burnish_serve.cli import OWN, VERBS, main
from burnish_serve.cli.verb import explain
from burnish_serve.evaluation import wilson
from burnish_serve.rows import read_rows
from burnish_serve.runner import WINDOW
from burnish_serve.writing import RowWriter

ROWS = [
    {"id": "1", "text": "great film", "label": "positive"},
    {"id": "2", "text": "dull", "label": "negative"},
    {"id": "é3", "text": 'two\nlines, with "quotes"', "label": "positive"},
    {"id": "4", "text": "bad food", "label": "negative"},
]
READABLE = [".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"]


@pytest.fixture
def burnish(tmp_path, monkeypatch):
    """Return a function that calls the command in this process, in an empty folder: its status, output and messages."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **options):
        with warnings.catch_warnings():
            result = CliRunner().invoke(main, list(map(str, arguments)), **options)
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        return result

    return run


def write(name: str, rows: list[dict]) -> str:
    with RowWriter(name) as writer:
        writer.write(rows)
    return name


def read(path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def answer_of(row: dict) -> dict:
    return json.loads(row["answer"]) if isinstance(row["answer"], str) else row["answer"]


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def one_object(text: str) -> dict:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("ending", READABLE)
def test_predict_passes_every_column_and_row_through_in_order(burnish, tiny_bundle, tiny_model, ending):
    result = burnish("predict", tiny_bundle, write(f"rows{ending}", ROWS), "--variant", "fp32", "--threads", 1)
    answered = lines(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [{name: row[name] for name in ROWS[0]} for row in answered] == ROWS
    assert [row["answer"] for row in answered] == tiny_model([row["text"] for row in ROWS])


@pytest.mark.parametrize("top_k", ["1", "2", "all"])
@pytest.mark.parametrize("ending", READABLE)
def test_predict_writes_every_format(burnish, tiny_bundle, tiny_model, ending, top_k):
    out = f"answers{ending}"
    result = burnish(
        *("predict", tiny_bundle, write("rows.jsonl", ROWS), "--out", out, "--variant", "fp32", "--top-k", top_k)
    )
    assert result.exit_code == 0
    assert result.stdout.startswith("4 rows in ")
    assert out in result.stdout
    answered = read(out)
    assert all(isinstance(row["answer"], str) != (ending in {".jsonl", ".ndjson"}) for row in answered)
    expected = tiny_model([row["text"] for row in ROWS], top_k=None if top_k == "all" else int(top_k))
    assert [answer_of(row) for row in answered] == expected
    assert [{name: row[name] for name in ROWS[0]} for row in answered] == ROWS
    assert sorted(path.name for path in Path().iterdir()) == sorted([out, "rows.jsonl"])


def test_predict_writes_csv_that_other_programs_read(burnish, tiny_bundle):
    burnish("predict", tiny_bundle, write("rows.csv", ROWS), "--out", "answers.csv")
    with Path("answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert json.loads(rows[0]["answer"])["label"] == "positive"


def test_predict_reads_plain_text(burnish, tiny_bundle):
    Path("rows.txt").write_text("great film\n\ndull\n")
    answered = lines(burnish("predict", tiny_bundle, "rows.txt").stdout)
    assert [(row["text"], row["answer"]["label"]) for row in answered] == [
        ("great film", "positive"),
        ("dull", "negative"),
    ]


@pytest.mark.parametrize("given", ["great film\ndull\n", '{"text": "great film"}\n{"text": "dull"}\n'])
def test_predict_reads_standard_input(burnish, tiny_bundle, given):
    answered = lines(burnish("predict", tiny_bundle, "-", input=given).stdout)
    assert [(row["text"], row["answer"]["label"]) for row in answered] == [
        ("great film", "positive"),
        ("dull", "negative"),
    ]


def test_predict_answers_texts_of_the_command_line(burnish, tiny_bundle):
    result = burnish("predict", tiny_bundle, "--text", "great film", "--text", "dull", "--text-column", "body")
    assert [row["answer"]["label"] for row in lines(result.stdout)] == ["positive", "negative"]


def test_predict_reads_another_column(burnish, tiny_bundle):
    result = burnish("predict", tiny_bundle, write("rows.csv", [{"body": "dull"}]), "--text-column", "body")
    assert lines(result.stdout)[0] == {"body": "dull"} | {"answer": lines(result.stdout)[0]["answer"]}


def test_predict_keeps_order_over_windows(burnish, tiny_bundle):
    rows = [{"n": n, "text": ("great " if n % 3 else "dull ") * (n % 13 + 1)} for n in range(WINDOW + 500)]
    burnish("predict", tiny_bundle, write("rows.jsonl", rows), "--out", "answers.jsonl")
    answered = read("answers.jsonl")
    assert [row["n"] for row in answered] == list(range(len(rows)))
    assert [row["answer"]["label"] for row in answered] == [
        "positive" if n % 3 else "negative" for n in range(len(rows))
    ]


def test_predict_may_write_over_its_input(burnish, tiny_bundle):
    burnish("predict", tiny_bundle, write("rows.jsonl", ROWS), "--out", "rows.jsonl")
    assert [row["id"] for row in read("rows.jsonl")] == [row["id"] for row in ROWS]
    assert all("answer" in row for row in read("rows.jsonl"))


def test_predict_json_is_one_object_and_the_answers_go_to_out(burnish, tiny_bundle):
    result = burnish("predict", tiny_bundle, write("rows.jsonl", ROWS), "--json", "--out", "answers.jsonl")
    summary = one_object(result.stdout)
    assert (summary["rows"], summary["truncated"], summary["variant"], summary["out"]) == (
        4,
        0,
        "int8",
        "answers.jsonl",
    )
    assert summary["rows_per_second"] > 0
    assert len(read("answers.jsonl")) == 4


def test_predict_says_how_many_texts_were_cut(burnish, tiny_bundle):
    result = burnish("predict", tiny_bundle, "--text", "film " * 30, "--text", "film", "--json", "--out", "a.jsonl")
    assert result.stderr == "burnish: warning: 1 of 2 texts were cut at 16 tokens\n"
    assert one_object(result.stdout)["truncated"] == 1
    assert ["truncated" in row["answer"] for row in read("a.jsonl")] == [True, False]


@pytest.mark.parametrize("options", [["--out", "answers.jsonl"], ["--out", "answers.csv"], []])
def test_predict_without_rows_fails_and_keeps_older_answers(burnish, tiny_bundle, options):
    Path("rows.jsonl").write_text("\n\n")
    for name in options[1:]:
        Path(name).write_text("older answers")
    result = burnish("predict", tiny_bundle, "rows.jsonl", *options)
    assert result.exit_code == 1
    assert result.stderr == "burnish: rows.jsonl has no rows\n"
    for name in options[1:]:
        assert Path(name).read_text() == "older answers"


def test_predict_keeps_older_answers_where_a_late_row_is_wrong(burnish, tiny_bundle):
    Path("rows.jsonl").write_text('{"text": "film"}\n' * 5 + '{"body": "film"}\n')
    Path("answers.jsonl").write_text("older answers")
    result = burnish("predict", tiny_bundle, "rows.jsonl", "--out", "answers.jsonl")
    assert result.stderr == "burnish: rows.jsonl:6: no column 'text'; the columns there are: 'body'\n"
    assert Path("answers.jsonl").read_text() == "older answers"
    assert sorted(path.name for path in Path().iterdir()) == ["answers.jsonl", "rows.jsonl"]


def test_evaluate_tells_scores_with_intervals(burnish, tiny_bundle):
    result = burnish("evaluate", tiny_bundle, "--data", write("rows.csv", ROWS), "--json", "--out", "judged.jsonl")
    report = one_object(result.stdout)
    assert {name: report[name] for name in ("task", "rows", "variant")} == {
        "task": "text-classification",
        "rows": 4,
        "variant": "int8",
    }
    judged = read("judged.jsonl")
    right = sum(row["answer"]["label"] == row["label"] for row in judged)
    assert [row["correct"] for row in judged] == [row["answer"]["label"] == row["label"] for row in judged]
    assert report["metrics"]["accuracy"] == right / 4
    assert report["intervals"]["accuracy"] == list(wilson(right / 4, 4))
    assert set(report["metrics"]["per_class"]) == {"negative", "positive"}


def test_evaluate_for_people(burnish, tiny_bundle):
    rows = [{"body": row["text"], "stars": row["label"]} for row in ROWS[:2]]
    result = burnish(
        "evaluate", tiny_bundle, "--data", write("rows.tsv", rows), "--text-column", "body", "--label-column", "stars"
    )
    first, accuracy, *_ = result.stdout.splitlines()
    assert first == "text-classification, 2 rows, int8"
    assert accuracy.split() == ["accuracy", "1.0000", "95", "%", "interval", "0.3424", "to", "1.0000"]


def test_inspect(burnish, tiny_bundle):
    result = burnish("inspect", tiny_bundle)
    for said in ("text-classification, format 1", "negative, positive", "up to 16 tokens", "fp32", "int8"):
        assert said in result.stdout
    manifest = one_object(burnish("inspect", tiny_bundle, "--json").stdout)
    written = json.loads((tiny_bundle / "manifest.json").read_text())
    assert manifest == {key: value for key, value in written.items() if key != "sha256"}


def test_inspect_tells_scores_and_warnings(burnish, bundle_copy, edit_manifest):
    fp32 = open_bundle(bundle_copy).manifest.variants["fp32"]
    edit_manifest(
        bundle_copy,
        variants={"fp32": dataclasses.replace(fp32, score=0.9125, batch_invariant=False, golden_outputs=())},
        defaults={},
        golden_rows=(),
        reference_score=0.9131,
        evaluation_rows=80,
        warnings=("scores are of few rows",),
        labels=tuple(f"label{n}" for n in range(30)),
    )
    shown = burnish("inspect", bundle_copy).stdout
    for said in (
        "0.9125",
        "depend on the batch",
        "PyTorch scored 0.9131 on the same 80 rows",
        "warning: scores are of",
    ):
        assert said in shown
    assert "label7, … (30 in all)" in shown
    assert "label8" not in shown


def test_verify_a_whole_bundle(burnish, tiny_bundle):
    result = burnish("verify", tiny_bundle)
    assert result.exit_code == 0
    assert "is whole: 6 files match their hashes" in result.stdout
    assert one_object(burnish("verify", tiny_bundle, "--json").stdout) == {
        "bundle": str(tiny_bundle),
        "files": 6,
        "golden_rows": 3,
        "differences": {"fp32": 0.0, "int8": 0.0},
        "unfit": [],
    }


def test_verify_a_damaged_bundle(burnish, bundle_copy):
    (bundle_copy / "onnx/model.onnx").write_bytes(b"damaged")
    result = burnish("verify", bundle_copy)
    assert result.exit_code == 5
    assert "model.onnx is damaged" in result.stderr


def golden(bundle: Path, outputs: tuple, tolerance: float = 0.001) -> dict:
    """Return the variants of a bundle, of which fp32 has other golden outputs."""
    variants = open_bundle(bundle).manifest.variants
    changed = dataclasses.replace(variants["fp32"], golden_outputs=outputs, golden_tolerance=tolerance)
    return {**variants, "fp32": changed}


@pytest.mark.parametrize("off", [0.01, -5.0, float("nan")])
def test_verify_a_bundle_that_answers_otherwise(burnish, bundle_copy, edit_manifest, off):
    first, *others = open_bundle(bundle_copy).manifest.variants["fp32"].golden_outputs
    edit_manifest(bundle_copy, variants=golden(bundle_copy, ((first[0], first[1] + off), *others)))
    result = burnish("verify", bundle_copy)
    assert result.exit_code == 4
    assert "does not answer on this machine as it did where it was made: fp32 is off by" in result.stderr


def test_verify_allows_what_the_manifest_tolerates(burnish, bundle_copy, edit_manifest):
    first, *others = open_bundle(bundle_copy).manifest.variants["fp32"].golden_outputs
    edit_manifest(bundle_copy, variants=golden(bundle_copy, ((first[0], first[1] + 0.01), *others), tolerance=0.02))
    assert burnish("verify", bundle_copy).exit_code == 0


@pytest.mark.parametrize(
    "outputs", [(), ((0.5, 0.5),), ((0.5,), (0.5,), (0.5,))], ids=["none", "too few", "too narrow"]
)
def test_verify_refuses_golden_outputs_that_do_not_fit_their_rows(burnish, bundle_copy, edit_manifest, outputs):
    edit_manifest(bundle_copy, variants=golden(bundle_copy, outputs))
    result = burnish("verify", bundle_copy)
    assert result.exit_code == 5
    assert "golden" in result.stderr


def test_verify_without_golden_rows(burnish, bundle_copy, edit_manifest):
    edit_manifest(bundle_copy, golden_rows=(), variants={"fp32": golden(bundle_copy, ())["fp32"]}, defaults={})
    result = burnish("verify", bundle_copy)
    assert result.exit_code == 0, result.stderr
    assert "0 golden answers replayed" in result.stdout


def test_doctor(burnish):
    result = burnish("doctor")
    assert result.exit_code == 0, result.output
    assert "provider   cpu: works" in result.stdout
    data = one_object(burnish("doctor", "--json").stdout)
    assert data["providers"]["cpu"] is None
    assert data["machine"]["threads"] >= 1


def test_doctor_fails_where_two_runtimes_are_installed(burnish, monkeypatch):
    monkeypatch.setattr("burnish_serve.machine.wheel_conflict", lambda: "two wheels")
    result = burnish("doctor")
    assert result.exit_code == 1
    assert "problem    two wheels" in result.stdout


def test_help_lists_every_verb(burnish):
    shown = burnish("--help").stdout
    for verb, text in VERBS.items():
        assert verb in shown
        assert text in shown


@pytest.mark.parametrize("verb", OWN)
def test_every_verb_has_help_with_json_and_debug(burnish, verb):
    shown = burnish(verb, "--help").stdout
    assert "--json" in shown
    assert "--debug" in shown


WRONG_USAGE = {
    "unknown verb": (["fry"], "No such command 'fry'"),
    "no bundle": (["inspect"], "Missing argument 'BUNDLE'"),
    "no rows": (["predict", "BUNDLE"], "give either a file of rows"),
    "rows and texts": (["predict", "BUNDLE", "rows.jsonl", "--text", "x"], "and not both"),
    "json without out": (["predict", "BUNDLE", "rows.jsonl", "--json"], "--json prints a summary and needs --out"),
    "top_k of 0": (["predict", "BUNDLE", "rows.jsonl", "--top-k", "0"], "whole number from 1"),
    "top_k of no number": (["predict", "BUNDLE", "rows.jsonl", "--top-k", "²"], "whole number from 1"),
    "unknown device": (["predict", "BUNDLE", "rows.jsonl", "--device", "tpu"], "'auto', 'cpu', 'cuda'"),
    "no threads": (["predict", "BUNDLE", "rows.jsonl", "--threads", "0"], "not in the range"),
    "no data": (["evaluate", "BUNDLE"], "Missing option '--data'"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage(burnish, tiny_bundle, arguments, said):
    write("rows.jsonl", ROWS)
    result = burnish(*(tiny_bundle if item == "BUNDLE" else item for item in arguments))
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


FAILURES = {
    "no bundle": (["predict", "nowhere", "rows.jsonl"], 1, "no such bundle: nowhere"),
    "no manifest": (["predict", "empty", "rows.jsonl"], 5, "empty is not a bundle: it has no manifest.json"),
    "evaluate nothing": (["evaluate", "empty", "--data", "rows.jsonl"], 5, "neither a bundle (no manifest.json) nor"),
    "evaluate nowhere": (["evaluate", "nowhere", "--data", "rows.jsonl"], 1, "no such bundle or checkpoint: nowhere"),
    "no file": (["predict", "BUNDLE", "missing.jsonl"], 1, "no such file: missing.jsonl"),
    "a folder": (["predict", "BUNDLE", "empty"], 1, "cannot tell the format"),
    "unknown ending": (["predict", "BUNDLE", "rows.xlsx"], 1, "known are .jsonl"),
    "no column": (["predict", "BUNDLE", "rows.jsonl", "--text-column", "body"], 1, "rows.jsonl:1: no column 'body'"),
    "no text": (["predict", "BUNDLE", "null.jsonl"], 1, "null.jsonl:1: column 'text' must hold text, not null"),
    "not json": (["predict", "BUNDLE", "broken.jsonl"], 1, "broken.jsonl:2: not a JSON object"),
    "half a character": (["predict", "BUNDLE", "half.jsonl"], 1, "half of a surrogate pair"),
    "out without a folder": (["predict", "BUNDLE", "rows.jsonl", "--out", "no/a.csv"], 1, "no such folder: no"),
    "out as text": (["predict", "BUNDLE", "rows.jsonl", "--out", "a.txt"], 1, "answers are written as .jsonl"),
    "out is a folder": (["predict", "BUNDLE", "rows.jsonl", "--out", "folder.jsonl"], 1, "folder.jsonl is a folder"),
    "unknown variant": (["predict", "BUNDLE", "rows.jsonl", "--variant", "int4"], 1, "it has: fp32, int8"),
    "unknown label": (["evaluate", "BUNDLE", "--data", "neutral.jsonl"], 1, "neutral.jsonl:1: the label 'neutral' is"),
    "no label": (["evaluate", "BUNDLE", "--data", "null.jsonl"], 1, "null.jsonl:1: "),
    "no labelled rows": (["evaluate", "BUNDLE", "--data", "none.jsonl"], 1, "none.jsonl has no rows"),
    "cuda": (["predict", "BUNDLE", "rows.jsonl", "--device", "cuda"], 6, "cannot run on cuda: "),
    "verify cuda": (["verify", "BUNDLE", "--device", "cuda"], 6, "cannot run on cuda: "),
}


@pytest.mark.parametrize(("arguments", "status", "said"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_every_failure_is_one_sentence_with_its_status(
    burnish, tiny_bundle, monkeypatch, arguments, status, said, as_json
):
    monkeypatch.setattr("burnish_serve.session.probe", lambda provider: "no library")
    write("rows.jsonl", ROWS)
    Path("null.jsonl").write_text('{"text": null}\n')
    Path("broken.jsonl").write_text('{"text": "film"}\n{"text": \n')
    Path("half.jsonl").write_text('{"text": "film \\ud83d"}\n')
    Path("neutral.jsonl").write_text('{"text": "film", "label": "neutral"}\n')
    Path("none.jsonl").write_text("")
    Path("empty").mkdir()
    Path("folder.jsonl").mkdir()
    arguments = [str(tiny_bundle) if item == "BUNDLE" else item for item in arguments]
    if as_json:
        arguments += ["--json"] if arguments[0] != "predict" or "--out" in arguments else ["--json", "--out", "a.jsonl"]
    result = burnish(*arguments)
    assert result.exit_code == status
    assert result.stderr.startswith("burnish: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert "should not happen" not in result.stderr
    if as_json:
        assert one_object(result.stdout) == {"error": result.stderr[len("burnish: ") : -1], "exit_status": status}
    else:
        assert result.stdout == ""
    assert not Path("a.jsonl").exists()


def test_a_verb_that_does_not_load_is_said_without_a_traceback(burnish, monkeypatch):
    from importlib.metadata import EntryPoint

    broken = EntryPoint("train", "no_such_module.cli:train", "burnish.commands")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [broken])
    result = burnish("train")
    assert result.exit_code == 1
    assert "train" in result.stderr
    assert "no_such_module" in result.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), "out.csv: the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "File too large"),
        (PermissionError(errno.EACCES, "Permission denied", "out.csv"), "out.csv: Permission denied"),
        (RuntimeError("write failed: No space left on device (28)"), "the disk is full"),
        (MemoryError(), "out of memory: lower the batch size"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError("division by zero"), "this should not happen (ZeroDivisionError: division by zero)"),
    ],
    ids=repr,
)
def test_what_the_system_says_is_explained(error, said):
    message, status = explain(error)
    assert said in message
    assert "\n" not in message
    assert status == 1


# What follows needs a process of its own.


@pytest.fixture
def many(tmp_path) -> Path:
    """Return a file with more rows than a pipe holds."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"a great film {number}\n" for number in range(6000)))
    return path


def test_the_installed_command(run_burnish, tiny_bundle, tmp_path):
    (tmp_path / "rows.csv").write_text("id,text\n7,great film\n")
    result = run_burnish("predict", tiny_bundle, tmp_path / "rows.csv")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["id"] == "7"


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_is_shown_with_debug_only(run_burnish, debug):
    result = run_burnish("inspect", "nowhere", *(["--debug"] if debug else []))
    assert result.returncode == 1
    assert ("Traceback" in result.stderr) is debug
    assert "no such bundle: nowhere" in result.stderr


def test_a_reader_that_has_gone_ends_the_command_without_a_word(command, environment, tiny_bundle, many):
    process = subprocess.Popen(
        [command, "predict", tiny_bundle, many], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert b"great film" in process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="Linux has it")
@pytest.mark.parametrize("verb", ["predict", "inspect", "inspect --json"])
def test_a_full_disk_behind_standard_output_is_said_once(run_burnish, tiny_bundle, verb):
    verb, *options = verb.split()
    options += ["--text", "great film"] if verb == "predict" else []
    with Path("/dev/full").open("w") as full:
        result = run_burnish(verb, tiny_bundle, *options, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr.startswith("burnish: the disk is full")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_file_that_cannot_grow_leaves_nothing_and_keeps_the_older(run_burnish, tiny_bundle, many, ending):
    out = many.with_name(f"answers{ending}")
    out.write_text("older answers")
    result = run_burnish(
        *("predict", tiny_bundle, many, "--out", out),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert result.returncode == 1
    assert "ile too large" in result.stderr
    assert "should not happen" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert out.read_text() == "older answers"
    assert sorted(path.name for path in many.parent.iterdir()) == [out.name, many.name]


def test_an_interrupt_leaves_nothing(command, environment, tiny_bundle, tmp_path):
    process = subprocess.Popen(
        [command, "predict", tiny_bundle, "-", "--out", tmp_path / "answers.jsonl"],
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, b"burnish: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["predict", "--text", "café 😀"], ["inspect"]], ids=["predict", "inspect"])
def test_output_is_utf8_whatever_the_terminal_says(run_burnish, tiny_bundle, arguments):
    verb, *rest = arguments
    result = run_burnish(verb, tiny_bundle, *rest, env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")
    assert all(text in result.stdout for text in rest[1:])
