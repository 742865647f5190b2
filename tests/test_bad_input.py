"""Whatever is wrong with what a user brings: one sentence, the right exit status, and nothing half-written.

The rows of the table are those of "What bad input gets": each says what is run, the status that is due, and what the
sentence must name. Braces name folders and files that the fixtures make.
"""

from __future__ import annotations

import errno
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors import SafetensorError

from burnish_export import card
from burnish_serve.cli import main
from burnish_serve.writing import RowWriter
from burnish_train import curve
from burnish_train.progress import StepBar
from tiny_model import labelled_rows, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = (
    "train --model {encoder} --out {out} --device cpu --precision fp32 --max-length 16"
    " --num-train-epochs 1 --per-device-train-batch-size 8 --save-steps 5"
)
PREDICT = "predict {bundle} --out {out}.jsonl --device cpu"
EVALUATE = "evaluate {bundle} --out {out}.jsonl --device cpu"
EXPORT = "export {checkpoint} --out {out}"
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
COLUMNS = "the columns there are: 'sentence', 'kind'"
KNOWN = "known are: 'alarm', 'music', 'weather'"

TABLE = {
    # a missing file
    "missing file: train": (1, TRAIN + " --train {given}/none.jsonl", "no such file", "none.jsonl"),
    "missing file: train --dev": (1, TRAIN + " --train {rows} --dev {given}/none.csv", "no such file", "none.csv"),
    "missing file: train RECIPE": (1, "train {given}/none.toml", "no such recipe", "none.toml"),
    "missing file: predict": (1, PREDICT + " {given}/none.jsonl", "no such file", "none.jsonl"),
    "missing file: evaluate": (1, EVALUATE + " --data {given}/none.jsonl", "no such file", "none.jsonl"),
    "missing file: export --calibrate": (1, EXPORT + " --calibrate {given}/none.jsonl", "no such file", "none.jsonl"),
    "missing file: export --eval": (1, EXPORT + " --eval {given}/none.jsonl", "no such file", "none.jsonl"),
    # an empty file
    "empty file: train": (1, TRAIN + " --train {given}/empty.jsonl", "empty.jsonl has no rows"),
    "empty file: train --test": (1, TRAIN + " --train {rows} --test {given}/empty.csv", "empty.csv has no rows"),
    "empty file: predict": (1, PREDICT + " {given}/empty.jsonl", "empty.jsonl has no rows"),
    "empty file: evaluate": (1, EVALUATE + " --data {given}/empty.jsonl", "empty.jsonl has no rows"),
    "empty file: export --calibrate": (1, EXPORT + " --calibrate {given}/empty.jsonl", "empty.jsonl has no rows"),
    "empty file: export --eval": (1, EXPORT + " --eval {given}/empty.jsonl", "empty.jsonl has no rows"),
    # a bad line
    "bad line: train": (1, TRAIN + " --train {given}/bad.jsonl", "bad.jsonl:3: not a JSON object"),
    "bad line: train, CSV": (1, TRAIN + " --train {given}/bad.csv", "bad.csv:3: 1 fields where the header has 2"),
    "bad line: predict": (1, PREDICT + " {given}/bad.jsonl", "bad.jsonl:3: not a JSON object"),
    "bad line: evaluate": (1, EVALUATE + " --data {given}/bad.csv", "bad.csv:3: 1 fields where the header has 2"),
    "bad line: export --calibrate": (1, EXPORT + " --calibrate {given}/bad.jsonl", "bad.jsonl:3: not a JSON object"),
    "bad line: not UTF-8": (1, PREDICT + " {given}/latin.jsonl", "latin.jsonl:2: not UTF-8"),
    # a missing column
    "missing column: train": (1, TRAIN + " --train {given}/other.jsonl", "other.jsonl:1: no column 'text'", COLUMNS),
    "missing column: train, label": (
        1,
        TRAIN + " --train {given}/other.jsonl --text-column sentence",
        "other.jsonl:1: no column 'label'",
        COLUMNS,
    ),
    "missing column: predict": (1, PREDICT + " {given}/other.jsonl", "other.jsonl:1: no column 'text'", COLUMNS),
    "missing column: evaluate": (
        1,
        EVALUATE + " --data {given}/other.jsonl --text-column sentence",
        "other.jsonl:1: no column 'label'",
        COLUMNS,
    ),
    "missing column: export --calibrate": (
        1,
        EXPORT + " --calibrate {given}/other.jsonl",
        "other.jsonl:1: no column 'text'",
        COLUMNS,
    ),
    # labels
    "one class only": (1, TRAIN + " --train {given}/single.jsonl", "single.jsonl", "'music'", "at least two labels"),
    "unknown label in test": (1, TRAIN + " --train {rows} --test {given}/door.jsonl", "door.jsonl", "'door'", KNOWN),
    "unknown label in dev": (1, TRAIN + " --train {rows} --dev {given}/door.jsonl", "door.jsonl", "'door'", KNOWN),
    "unknown label: evaluate": (
        1,
        "evaluate {bundle} --data {given}/door.jsonl --device cpu",
        "door.jsonl:2: the label 'door'",
        "known are: 'negative', 'positive'",
    ),
    "unknown label: export --eval": (1, EXPORT + " --eval {given}/window.jsonl", "window.jsonl:3", "'window'", KNOWN),
    # an unknown key in a recipe: all of them at once, with the known ones
    "unknown keys in a recipe": (
        1,
        "train {given}/wrong.toml --model {encoder} --train {rows} --out {out}",
        "wrong.toml: unknown keys 'batch_size', 'epochs' (known: ",
        "num_train_epochs",
        "seed must be a whole number, not 'x'",
    ),
    "a recipe that is not TOML": (1, "train {given}/bad.jsonl", "bad.jsonl is not a TOML file"),
    # an unknown model
    "unknown model: a folder": (
        1,
        TRAIN.replace("{encoder}", "{given}/none") + " --train {rows}",
        "none",
        "a folder, or a name on the Hub",
    ),
    "unknown model: a name": (
        1,
        TRAIN.replace("{encoder}", "nobody/nothing") + " --train {rows}",
        "cannot load the model 'nobody/nothing'",
        "a folder, or a name on the Hub",
    ),
    "unknown model: an empty folder": (
        1,
        TRAIN.replace("{encoder}", "{given}/folder") + " --train {rows}",
        "folder is not a model folder: it has no config.json",
    ),
    # a checkpoint that is not one
    "not a checkpoint: missing": (1, EXPORT.replace("{checkpoint}", "{given}/none"), "no such", "none"),
    "not a checkpoint: empty": (
        1,
        EXPORT.replace("{checkpoint}", "{given}/folder"),
        "folder is not a checkpoint: it has no config.json",
    ),
    "not a checkpoint: of another model": (
        1,
        EXPORT.replace("{checkpoint}", "{encoder}") + " --task text-classification",
        "has no head for text-classification",
    ),
    "not a checkpoint: evaluate": (5, "evaluate {given}/folder --data {rows}", "folder is neither a bundle", "nor"),
    # a damaged bundle
    "damaged bundle: graph": (
        5,
        PREDICT.replace("{bundle}", "{cut}") + " {rows}",
        "onnx/model.onnx is damaged",
        "bytes",
    ),
    "damaged bundle: evaluate": (5, EVALUATE.replace("{bundle}", "{cut}") + " --data {rows}", "model.onnx is damaged"),
    "damaged bundle: inspect": (5, "inspect {edited}", "manifest.json is damaged: it does not match its own hash"),
    "damaged bundle: verify": (5, "verify {edited}", "manifest.json is damaged: it does not match its own hash"),
    "damaged bundle: no manifest": (5, PREDICT.replace("{bundle}", "{headless}") + " {rows}", "has no manifest.json"),
    "missing bundle": (1, PREDICT.replace("{bundle}", "{given}/none") + " {rows}", "no such bundle", "none"),
    # a device that is not there
    "no CUDA: train": (6, TRAIN.replace("cpu", "cuda") + " --train {rows}", "cannot train on cuda", "use --device cpu"),
    "no CUDA: predict": (6, PREDICT.replace("cpu", "cuda") + " {rows}", "cannot run on cuda", "ONNX Runtime"),
    "no CUDA: evaluate a checkpoint": (6, "evaluate {checkpoint} --data {rows} --device cuda", "cuda", "--device cpu"),
    # places that cannot be written to
    "out exists: train": (
        1,
        TRAIN.replace("{out}", "{given}") + " --train {rows}",
        "given exists already",
        "--overwrite",
    ),
    "out exists: export": (1, EXPORT.replace("{out}", "{given}"), "given exists already", "--overwrite"),
    "out is no name: train": (1, TRAIN.replace("{out}", ".") + " --train {rows}", "--out"),
    "out is no name: export": (1, EXPORT.replace("{out}", "."), "--out"),
    "out below a file: train": (1, TRAIN.replace("{out}", "{rows}/run") + " --train {rows}", "train.jsonl"),
    "out below a file: export": (1, EXPORT.replace("{out}", "{rows}/run"), "train.jsonl"),
    "no folder for the answers": (1, "predict {bundle} {rows} --out {given}/none/a.jsonl", "no such folder", "none"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_encoder, tiny_checkpoint, tiny_rows, tiny_bundle) -> dict[str, Path]:
    """Return the folders and files that the table names, among them everything that is wrong."""
    given = tmp_path_factory.mktemp("wrong") / "given"
    (given / "folder").mkdir(parents=True)
    good = labelled_rows(6)
    write_rows(given / "single.jsonl", [{**row, "label": "music"} for row in good])
    write_rows(given / "door.jsonl", [{"text": "great", "label": "positive"}, {"text": "open", "label": "door"}])
    write_rows(given / "window.jsonl", [*good[:2], {"text": "open the window", "label": "window"}])
    write_rows(given / "other.jsonl", [{"sentence": row["text"], "kind": row["label"]} for row in good])
    lines = write_rows(given / "bad.jsonl", good).read_text(encoding="utf-8").splitlines()
    (given / "bad.jsonl").write_text("\n".join([*lines[:2], '{"text": "cut', *lines[2:]]), encoding="utf-8")
    (given / "bad.csv").write_text("text,label\ngreat,positive\nhalf a row\n", encoding="utf-8")
    (given / "latin.jsonl").write_bytes(b'{"text": "a"}\n{"text": "na\xefve"}\n')
    (given / "empty.jsonl").touch()
    (given / "empty.csv").write_text("text,label\n", encoding="utf-8")
    (given / "wrong.toml").write_text('epochs = 3\nbatch_size = 8\nseed = "x"\n', encoding="utf-8")
    damaged = {name: Path(shutil.copytree(tiny_bundle, given.parent / name)) for name in ("cut", "edited", "headless")}
    with (damaged["cut"] / "onnx" / "model.onnx").open("r+b") as file:
        file.truncate(100)
    manifest = damaged["edited"] / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("negative", "positive"), encoding="utf-8")
    (damaged["headless"] / "manifest.json").unlink()
    return {
        **damaged,
        "given": given,
        "encoder": tiny_encoder,
        "checkpoint": tiny_checkpoint,
        "bundle": tiny_bundle,
        "rows": tiny_rows / "train.jsonl",
    }


@pytest.fixture
def out(tmp_path) -> Path:
    """Return a path to write to, alone in its folder."""
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "out"


@pytest.fixture
def burnish(places, out, tmp_path, monkeypatch):
    """Return a function that runs a line of the table in this process."""
    monkeypatch.chdir(tmp_path)  # for a path that means where we stand

    def run(line: str):
        return CliRunner().invoke(main, [part.format(**places, out=out) for part in shlex.split(line)])

    return run


def contents(places: dict[str, Path]) -> dict[str, int]:
    found = {path for folder in (places["given"].parent, places["rows"].parent) for path in folder.rglob("*")}
    return {str(path): path.stat().st_size for path in found if path.is_file()}


def one_sentence(stderr: str) -> str:
    """Return the line that says what was wrong; there must be one, last, and no traceback."""
    lines = stderr.splitlines()
    (said,) = [line for line in lines if line.startswith("burnish: ") and not line.startswith("burnish: warning")]
    assert said == lines[-1]
    assert "Traceback" not in stderr
    assert "this should not happen" not in said
    return said


def checked(name: str) -> object:
    return pytest.param(*TABLE[name][:2], TABLE[name][2:], id=name, marks=[NO_CUDA] if "CUDA" in name else [])


@pytest.mark.parametrize(("status", "line", "named"), [checked(name) for name in TABLE])
def test_bad_input(burnish, places, out, status, line, named):
    before = contents(places)
    result = burnish(line)
    assert result.exit_code == status, (result.stderr, result.exception)
    assert result.stdout == ""
    said = one_sentence(result.stderr)
    assert result.stderr.count("\n") == 1, "more than one line"
    for name in named:
        assert name in said
    assert list(out.parent.iterdir()) == [], "something was left behind"
    assert contents(places) == before


@pytest.mark.parametrize(
    "name",
    ["unknown keys in a recipe", "missing column: train", "damaged bundle: graph", "bad line: predict"],
)
def test_bad_input_given_to_the_installed_command(run_burnish, places, out, name):
    status, line, *named = TABLE[name]
    done = run_burnish(*(part.format(**places, out=out) for part in shlex.split(line)))
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    said = one_sentence(done.stderr)
    assert all(part in said for part in named)
    assert list(out.parent.iterdir()) == []


def test_bad_input_with_json_is_one_object(burnish):
    result = burnish(TABLE["missing file: train"][1] + " --json")
    told = json.loads(result.stdout)
    assert told["exit_status"] == result.exit_code == 1
    assert result.stderr == f"burnish: {told['error']}\n"


# A disk that is full


def disk_is_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def safetensors_on_a_full_disk(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.fixture
def torch_save_on_a_full_disk(monkeypatch):
    """Make PyTorch write to a device that is always full; what it says then has no word of a disk."""
    if not Path("/dev/full").is_char_device():
        pytest.skip("Linux has /dev/full")
    save = torch.save
    return lambda thing, path, *rest, **options: save(thing, "/dev/full", *rest, **options)


@pytest.mark.parametrize("when", ["the optimizer", "the weights", "the rows", "the curve"])
def test_a_full_disk_in_training_is_said_and_resume_goes_on(burnish, out, when, torch_save_on_a_full_disk, monkeypatch):
    line = TRAIN + " --train {rows}"
    with monkeypatch.context() as patch:
        if when == "the optimizer":
            patch.setattr(torch, "save", torch_save_on_a_full_disk)
        elif when == "the weights":
            patch.setattr(transformers.modeling_utils, "safe_save_file", safetensors_on_a_full_disk)
        else:
            patch.setattr(*((RowWriter, "write") if when == "the rows" else (curve, "draw")), disk_is_full)
        result = burnish(line)
    assert result.exit_code == 1
    said = one_sentence(result.stderr)
    assert "disk" in said
    assert "full" in said
    assert str(out) in said, "which disk?"
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out.partial"], "what --resume goes on from"
    result = burnish(line + " --resume --json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 14
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_full_disk_in_export_is_said_and_nothing_is_left(burnish, out, monkeypatch):
    monkeypatch.setattr(card, "render", disk_is_full)
    result = burnish(EXPORT + " --precision fp32")
    assert result.exit_code == 1
    assert "the disk is full" in one_sentence(result.stderr)
    assert list(out.parent.iterdir()) == []


def test_a_full_disk_in_predict_is_said_and_nothing_is_left(burnish, out, monkeypatch):
    monkeypatch.setattr(RowWriter, "write", disk_is_full)
    result = burnish(PREDICT + " {rows}")
    assert result.exit_code == 1
    assert "the disk is full" in one_sentence(result.stderr)
    assert list(out.parent.iterdir()) == []


@pytest.fixture(scope="module")
def on_a_disk_of(command, environment, tmp_path_factory):
    """Return a function that runs the command on a disk of so many kilobytes, in a mount namespace of its own."""
    disk = tmp_path_factory.mktemp("disk")
    script = 'mount -t tmpfs -o size="$1"k none "$2" && cd "$2" || exit 9; shift 2; "$@"; rc=$?; ls -A >&2; exit $rc'

    def run(kilobytes: int, line: list[str]) -> subprocess.CompletedProcess[str]:
        arguments = ["sh", "-c", script, "sh", str(kilobytes), str(disk), command, *line]
        return subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", *arguments],
            env=environment, capture_output=True, encoding="utf-8", timeout=120,
        )  # fmt: skip

    if shutil.which("unshare") is None or run(64, ["--version"]).returncode:
        pytest.skip("this system lets nobody mount a small disk (unshare --user --mount)")
    return run


@pytest.mark.parametrize(
    ("kilobytes", "line", "left"),
    [
        pytest.param(300, TRAIN + " --train {rows}", ["out.partial"], id="train"),
        pytest.param(8, PREDICT + " {rows}", [], id="predict"),
    ],
)
def test_a_disk_that_is_really_full(on_a_disk_of, places, kilobytes, line, left):
    done = on_a_disk_of(kilobytes, [part.format(**places, out="out") for part in shlex.split(line)])
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    stands = lines[len(lines) - len(left) :]
    assert stands == left
    said = one_sentence("\n".join(lines[: len(lines) - len(left)]))
    assert "disk" in said
    assert "full" in said


# Ctrl-C


def press_control_c(*_, **__):
    raise KeyboardInterrupt


def test_control_c_in_training_keeps_the_last_checkpoint_and_resume_goes_on(burnish, out, monkeypatch):
    line = TRAIN + " --train {rows}"
    with monkeypatch.context() as patch:
        patch.setattr(StepBar, "on_save", press_control_c)
        result = burnish(line)
    assert result.exit_code == 1
    said = one_sentence(result.stderr)
    assert said.startswith("burnish: interrupted at step 5 of ")
    assert f"{out}.partial/checkpoint-5" in said
    assert "--resume goes on" in said
    assert not out.exists()
    result = burnish(line + " --resume --json")
    assert result.exit_code == 0, result.stderr
    assert f"going on from {out}.partial/checkpoint-5" in result.stderr
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_control_c_in_export_leaves_nothing(burnish, out, monkeypatch):
    monkeypatch.setattr("burnish_export.graph.to_onnx", press_control_c)
    result = burnish(EXPORT)
    assert result.exit_code == 1
    assert one_sentence(result.stderr) == "burnish: interrupted"
    assert list(out.parent.iterdir()) == []
