"""Every task the whole way: trained, exported, asked alone and together, predicted with and scored.

A task has its rows and its settings in tiny_tasks.py, and nothing else of its own here.
"""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

from burnish_export import ExportConfig, export
from burnish_serve import TASKS, load
from burnish_serve.cli import main
from burnish_train import TrainConfig, train
from tiny_model import write_rows
from tiny_tasks import WAYS

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")
# On so few tokens the score of an int8 variant tells little; that it answers the same however it is asked, a lot.
FLOATS = {"fp32": 1e-4, "int8": 0.0}


def differs(one, other, allowed):
    """Return whether two answers differ by more than some of their numbers may."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) > allowed
    if isinstance(one, list) and isinstance(other, list):
        return len(one) != len(other) or any(map(differs, one, other, [allowed] * len(one)))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) != list(other) or any(differs(one[key], other[key], allowed) for key in one)
    return one != other


def burnish(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_task_goes_the_whole_way():
    assert {way.task for way in WAYS.values()} == set(TASKS)


@pytest.mark.parametrize("name", WAYS)
def test_the_whole_way(name, tiny_settings, tmp_path):
    way = WAYS[name]
    task, rows = TASKS[way.task], way.rows(160, 0)
    data = {
        "train": write_rows(tmp_path / "train.jsonl", rows),
        "test": write_rows(tmp_path / "test.jsonl", way.rows(60, 1)),
    }
    config = {**tiny_settings, **{split: str(path) for split, path in data.items()}, "max_length": 32, **way.settings}
    record = train(TrainConfig(**{**config, "task": way.task, "out": tmp_path / "run"}))
    assert record["metrics"]["test"][task.metric] >= way.reached
    manifest = export(ExportConfig(checkpoint=str(tmp_path / "run"), out=tmp_path / "bundle", seconds=0.01))
    assert manifest.task == way.task
    assert manifest.outputs == task.outputs
    assert manifest.decoding == load(tmp_path / "bundle").reading.decoding
    assert {"fp32", "int8"} <= set(manifest.variants)
    told = burnish("evaluate", tmp_path / "bundle", "--data", data["test"], "--variant", "fp32", "--json")
    assert told["metrics"][task.metric] == pytest.approx(record["metrics"]["test"][task.metric], abs=1e-3)
    for variant, allowed in FLOATS.items():
        model = load(tmp_path / "bundle", variant=variant, device="cpu", threads=1)
        asked = [task.asked(row, "a row") for row in rows[:32]]
        together = model(asked)
        order = random.Random(0).sample(range(32), 32)
        shuffled = dict(zip(order, model([asked[i] for i in order]), strict=True))
        for i, row in enumerate(asked):
            assert not differs(model(row)[0], together[i], allowed), (variant, row)
            assert not differs(shuffled[i], together[i], allowed), (variant, row)
        out = tmp_path / f"{variant}.jsonl"
        burnish("predict", tmp_path / "bundle", data["train"], "--out", out, "--variant", variant, "--json")
        answered = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert not differs([row.pop("answer") for row in answered[:32]], together, allowed)
        assert answered[:32] == rows[:32]
        assert len(answered) == len(rows)
    assert burnish("verify", tmp_path / "bundle", "--json")["golden_rows"] == len(manifest.golden_rows)
