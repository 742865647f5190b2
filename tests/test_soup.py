"""The mean of the weights of several checkpoints: what it is, what is fitted again, and what does not go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from burnish_serve import TASKS
from burnish_serve.cli import main
from burnish_serve.errors import InputError
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_train import TrainConfig, checkpoint, train
from burnish_train.soup import soup
from tiny_model import write_rows
from tiny_tasks import WAYS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def member(make_checkpoint, tiny_rows):
    """Return a function that trains with a seed and the dev rows of all members."""
    return lambda seed, **changes: make_checkpoint(seed=seed, dev=str(tiny_rows / "test.jsonl"), **changes)


def weights(folder):
    return {name: weight for path in folder.glob("*.safetensors") for name, weight in load_file(path).items()}


def spoil(folder, out):
    """Return a copy of a checkpoint whose weights answer nothing right."""
    shutil.copytree(folder, out)
    for path in out.glob("*.safetensors"):
        save_file({name: -3 * weight for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_weights_are_the_mean_of_all(member, tmp_path, pooling):
    members = [member(seed, pooling=pooling) for seed in (1, 2)]
    record = soup(members, tmp_path / "soup", device="cpu")
    found, *given = (weights(folder) for folder in (tmp_path / "soup", *members))
    assert found.keys() == given[0].keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, torch.stack([one[name] for one in given]).mean(0))
    assert any(not torch.equal(weight, given[0][name]) for name, weight in found.items())
    assert json.loads(json.dumps(record)) == checkpoint.read_record(tmp_path / "soup")
    assert record["soup"]["taken"] == list(map(str, members))
    assert record["seconds"] > sum(checkpoint.read_record(folder)["seconds"] for folder in members)


def test_it_scores_as_it_says(member, tiny_rows, tmp_path):
    members = [member(seed) for seed in (1, 2)]
    told = []
    record = soup(members, tmp_path / "soup", device="cpu", log=told.append)
    model = checkpoint.load(tmp_path / "soup", device="cpu")
    rows = read_labelled(str(tiny_rows / "test.jsonl"), model.task, model.labels)
    assert evaluate(model, rows).metrics["accuracy"] == record["metrics"]["dev"]["accuracy"] > 0.6
    for folder, one, line in zip(members, record["soup"]["members"], told, strict=False):
        own = checkpoint.read_record(folder)
        assert one["accuracy"] == own["metrics"]["dev"]["accuracy"]
        assert one["seed"] == own["seed"]
        assert line == f"{folder}: dev accuracy {one['accuracy']:.4f}"
    assert len(told) == 3


# Those with something that is fitted on dev rows or counted on train rows, and one that keeps its outputs to itself.
FITTED = ("text-classification", "multi-label-classification", "regression", "question-answering", "fill-mask")


@pytest.mark.parametrize("name", FITTED)
def test_the_soup_of_a_checkpoint_and_its_copy_is_that_checkpoint(name, tiny_settings, tmp_path):
    way = WAYS[name]
    rows = {"train": way.rows(80, 0), "dev": way.rows(40, 1)}
    files = {part: str(write_rows(tmp_path / f"{part}.jsonl", some)) for part, some in rows.items()}
    settings = {**tiny_settings, "test": None, "max_length": 32, **way.settings, **files, "num_train_epochs": 2.0}
    own = train(TrainConfig(**{**settings, "task": way.task, "out": tmp_path / "run"}))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    record = soup([tmp_path / "run", tmp_path / "copy"], tmp_path / "soup", device="cpu")
    for key, value in own["decoding"].items():
        wanted = value if value is None or isinstance(value, str) else pytest.approx(value, abs=1e-6)
        assert record["decoding"][key] == wanted, key
    metric = TASKS[way.task].metric
    assert record["metrics"]["dev"][metric] == pytest.approx(own["metrics"]["dev"][metric], abs=1e-6)
    before = weights(tmp_path / "run")
    assert all(torch.equal(weight, before[key]) for key, weight in weights(tmp_path / "soup").items())


def test_greedy_leaves_out_what_makes_it_worse(member, tmp_path):
    good = [member(seed) for seed in (1, 2)]
    bad = spoil(good[0], tmp_path / "bad")
    members = [good[0], bad, good[1]]
    record = soup(members, tmp_path / "greedy", greedy=True, device="cpu")
    assert str(bad) not in record["soup"]["taken"]
    best = max(one["accuracy"] for one in record["soup"]["members"])
    assert record["metrics"]["dev"]["accuracy"] >= best
    plain = soup(members, tmp_path / "plain", device="cpu")
    assert plain["soup"]["taken"] == list(map(str, members))
    assert plain["metrics"]["dev"]["accuracy"] < best


def test_the_command_writes_what_can_be_exported(member, tmp_path):
    runs = [str(member(seed)) for seed in (1, 2)]
    out = tmp_path / "soup"
    result = CliRunner().invoke(main, ["soup", *runs, "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"checkpoint written to {out}\n dev: accuracy ")
    result = CliRunner().invoke(main, ["export", str(out), "--out", str(tmp_path / "bundle"), "--precision", "fp32"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["soup", *runs, "--out", str(out), "--json"])
    assert result.exit_code == 1
    assert result.stderr == f"burnish: {out} exists already; give another --out, or --overwrite to replace it\n"
    result = CliRunner().invoke(main, ["soup", *runs, "--out", str(out), "--overwrite", "--greedy", "--json"])
    assert json.loads(result.stdout)["soup"]["greedy"] is True


def test_what_does_not_go_together_is_said_and_nothing_is_written(member, make_checkpoint, tiny_rows, tmp_path):
    one = member(1)
    copy = shutil.copytree(one, tmp_path / "copy")
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    other = shutil.copytree(one, tmp_path / "other")
    (other / "dev.jsonl").write_text("", encoding="utf-8")
    nothing = [shutil.copytree(other, tmp_path / f"nothing{number}") for number in range(2)]
    rows = map(json.loads, (tiny_rows / "train.jsonl").read_text(encoding="utf-8").splitlines())
    small = [row for row in rows if row["label"] != "music"]
    fewer = make_checkpoint(train=str(write_rows(tmp_path / "fewer.jsonl", small)), test=None)
    for members, message in (
        ([one], "two checkpoints or more"),
        ([one, Path(__file__).with_name("tiny_bundle")], "is a bundle, and a checkpoint is wanted, such as the folder"),
        ([one, one], "two checkpoints or more"),
        ([one, member(2, pooling="mean")], "they differ in pooling"),
        ([one, fewer], "they differ in labels"),
        ([one, copy], "different tokenizers"),
        ([one, other], "hold different rows, .* give --dev"),
        (nothing, "holds no rows: give --dev"),
        ([one, tmp_path], "neither a bundle nor a checkpoint"),
    ):
        with pytest.raises(InputError, match=message):
            soup(members, tmp_path / "out", device="cpu")
        assert not list(tmp_path.glob("out*"))
    record = soup(nothing, tmp_path / "out", dev=str(tiny_rows / "test.jsonl"), device="cpu")
    assert record["metrics"]["dev"]["accuracy"] == checkpoint.read_record(one)["metrics"]["dev"]["accuracy"]


def test_a_pretrained_encoder_is_no_member(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "burnish.json").write_text(json.dumps({"task": "fill-mask", "base_model": None}))
    with pytest.raises(InputError, match="was pretrained from nothing"):
        soup([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_an_error_while_it_is_written_leaves_nothing_behind(member, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        soup([member(1), member(2)], tmp_path / "out", device="cpu")
    assert not list(tmp_path.glob("out*"))
