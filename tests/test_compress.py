"""A checkpoint made smaller: which students are tried, what is measured, and which is taken."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import onnx_ir as ir
import pytest

from burnish_serve import load
from burnish_serve.errors import BurnishError, InputError, QualityGateError
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_train import checkpoint
from burnish_train.compress import run
from burnish_train.compress.config import CompressConfig
from burnish_train.compress.frontier import Tried, table, taken
from burnish_train.compress.students import Student, smaller, students
from burnish_train.methods.silent import silent_heads
from training import begun_before, record_of

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")


def test_students_come_from_the_largest_that_should_be_fast_enough():
    found = students(6, 2.0)
    whole = Student(6, 1.0).cost
    assert all(whole / one.cost >= 2.0 for one in found)
    costs = [round(one.cost, 1) for one in found]
    assert costs == sorted(costs, reverse=True)
    assert students(6, 1.0)[0] == Student(6, 1.0)
    assert not students(2, 9.0)


def test_students_of_fewer_heads_may_be_deeper():
    assert students(6, 2.0)[0] == Student(3, 0.75)
    found = students(6, 2.0, 0.5)
    assert {one.heads for one in found} == {0.5}
    assert found[0] == Student(5, 0.5, 0.5)
    assert found[0].name == "5-layers-0.5-heads-0.5"
    assert Student(3, 0.75).name == "3-layers-0.75"


def test_what_was_too_slow_tells_how_small_the_next_must_be():
    left = students(6, 2.0)
    assert smaller(left, 1.2) == left[1:], "fast enough and not good enough: the next one"
    following = smaller(left, 0.87)
    assert following[0] == Student(3, 0.5)
    assert all(one.cost <= 0.87 * left[0].cost for one in following)
    assert smaller(left, 0.1) == []


def test_what_is_taken_is_the_best_of_those_that_are_enough():
    tried = [Tried("slow", 1.9, 0.95, 1, 1), Tried("a", 2.0, 0.92, 1, 1), Tried("b", 2.5, 0.93, 1, 1)]
    assert taken(tried, speedup=2.0, least=0.9).name == "b"
    assert taken(tried, speedup=2.6, least=0.9) is None
    assert taken(tried, speedup=2.0, least=0.94) is None
    assert "0.9300   2.50" in table(tried, "accuracy")


@pytest.fixture
def quick(make_bundle, monkeypatch):
    """Export in this process, and let every student be twice as fast as its teacher."""

    def copied(folder, out, _):
        return shutil.copytree(make_bundle(folder), out, dirs_exist_ok=True)

    monkeypatch.setattr(run, "_bundle", copied)

    def times(calls, **_):
        for call in calls.values():
            assert call()
        return {name: np.full((2, 2), 4.0 if name == "teacher" else 2.0) for name in calls}

    monkeypatch.setattr(run, "interleave", times)


def test_a_student_is_trained_exported_measured_and_taken(mean_checkpoint, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(run, "students", lambda layers, *_: [Student(layers - 1, 1.0), Student(1, 0.5)])
    size = {"speedup": 2.0, "max_drop": 0.2, "trim_vocabulary": True}
    config = CompressConfig(checkpoint=mean_checkpoint, out=tmp_path / "small", **size, device="cpu")
    found = run.compress(config)
    assert found["taken"] == "1-layers-1"
    written = {path.name for path in config.out.iterdir()}
    assert written == {"bundle", "checkpoint", "compression.json", "frontier.png"}
    assert not config.out.with_name("small.partial").exists()
    settings = record_of(config.out / "checkpoint")["settings"]
    assert (settings["teacher"], settings["keep_layers"]) == ([str(mean_checkpoint)], 1)
    assert settings["trim_vocabulary"]
    model = load(config.out / "bundle", device="cpu")
    rows = read_labelled(str(mean_checkpoint / "dev.jsonl"), model.task, model.labels)
    assert found["tried"][1]["score"] == evaluate(model, rows).metrics["accuracy"]
    assert found["least"] == pytest.approx(found["tried"][0]["score"] - 0.2)
    assert [one["speedup"] for one in found["tried"]] == [1.0, 2.0]
    assert json.loads((config.out / "compression.json").read_text())["taken"] == "1-layers-1"
    with pytest.raises(InputError, match="exists already"):
        run.compress(config)


def test_how_a_teacher_was_computed_is_not_how_its_students_are(make_checkpoint, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(run, "students", lambda *_: [Student(1, 1.0)])
    monkeypatch.setattr("burnish_train.device._bf16_is_faster", lambda *, cuda: False)
    teacher = tmp_path / "teacher"
    shutil.copytree(make_checkpoint(pooling="mean"), teacher)
    record = json.loads((teacher / "burnish.json").read_text())
    record["settings"] |= {"attn_implementation": "flash_attention_2", "torch_compile": True, "precision": "fp16"}
    (teacher / "burnish.json").write_text(json.dumps(record))
    run.compress(CompressConfig(checkpoint=teacher, out=tmp_path / "small", max_drop=1.0, device="cpu"))
    found = record_of(tmp_path / "small" / "checkpoint")["settings"]
    assert [found[name] for name in ("attn_implementation", "torch_compile", "precision")] == ["auto", False, "fp32"]


def test_students_lose_the_heads_that_were_asked_for(mean_checkpoint, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(run, "students", lambda layers, _, heads: [Student(layers, 1.0, heads)])
    settings = {"checkpoint": mean_checkpoint, "out": tmp_path / "small", "max_drop": 1.0, "device": "cpu"}
    with pytest.raises(InputError, match="keep_heads is a share"):
        run.compress(CompressConfig(**settings, keep_heads=2.0))
    with pytest.raises(InputError, match=r"keep_heads: 0\.9 of the 2 heads of a layer are all of them"):
        run.compress(CompressConfig(**settings, keep_heads=0.9))
    assert not list(tmp_path.iterdir()), "it is said before anything is done"
    found = run.compress(CompressConfig(**settings, keep_heads=0.5, num_train_epochs=1.0))
    assert found["taken"] == "2-layers-1-heads-0.5"
    model = checkpoint.load_model(tmp_path / "small" / "checkpoint")
    assert [len(numbers) for numbers in silent_heads(model)] == [1, 1]
    products = ir.load(tmp_path / "small" / "bundle" / "onnx" / "model.onnx").graph
    shapes = [tuple(value.shape) for value in products.initializers.values()]
    assert shapes.count((32, 16)) == 6, "queries, keys and values of one head of 16 in each of two layers"


def test_a_students_seconds_are_those_of_all_starts(mean_checkpoint, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(run, "students", lambda *_: [Student(1, 0.5)])
    config = CompressConfig(checkpoint=mean_checkpoint, out=tmp_path / "small", max_drop=1.0, device="cpu")
    begun_before(tmp_path / "small.partial" / "1-layers-0.5", 1000.0)
    teacher, student = (one["seconds"] for one in run.compress(config)["tried"])
    assert teacher < 1000 < student < 2000


def test_an_export_that_fails_says_why(tiny_encoder, tmp_path):
    with pytest.raises(BurnishError, match=r"was not exported: burnish: .* --task"):
        run._bundle(tiny_encoder, tmp_path / "bundle", print)


def test_where_no_student_is_enough_nothing_is_written_and_all_that_was_done_is_kept(
    mean_checkpoint, tmp_path, monkeypatch, quick
):
    monkeypatch.setattr(run, "students", lambda *_: [Student(1, 1.0)])
    config = CompressConfig(checkpoint=mean_checkpoint, out=tmp_path / "small", speedup=99.0, device="cpu")
    monkeypatch.setattr(run, "students", students)
    with pytest.raises(InputError, match="--speedup 99 is more than one layer"):
        run.compress(config)
    assert not config.out.with_name("small.partial").exists(), "it is said before anything is done"
    monkeypatch.setattr(run, "students", lambda *_: [Student(1, 1.0)])
    with pytest.raises(QualityGateError, match=r"none of 1 students is 99\.0 times as fast"):
        run.compress(config)
    assert not config.out.exists()
    trained = config.out.with_name("small.partial") / "1-layers-1"
    before = (trained / "burnish.json").stat().st_mtime_ns
    with pytest.raises(QualityGateError):
        run.compress(config)
    assert (trained / "burnish.json").stat().st_mtime_ns == before, "it was not trained again"
    with pytest.raises(InputError, match=r"num_train_epochs was 0\.0 and is 3\.0"):
        run.compress(dataclasses.replace(config, num_train_epochs=3.0))
    assert run.compress(dataclasses.replace(config, speedup=2.0, max_drop=1.0))["taken"] == "1-layers-1"


def test_other_rows_than_the_teachers_are_refused(make_checkpoint, tiny_rows, tmp_path):
    rows = tmp_path / "rows.jsonl"
    shutil.copy(tiny_rows / "train.jsonl", rows)
    folder = make_checkpoint(train=str(rows), num_train_epochs=1.0)
    with rows.open("a") as file:
        file.write(json.dumps({"text": "wake me now", "label": "alarm"}) + "\n")
    config = CompressConfig(checkpoint=folder, out=tmp_path / "small", device="cpu")
    with pytest.raises(InputError, match=r"the rows of train in .* are not those"):
        run.compress(config)
