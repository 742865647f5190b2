"""Recipes and flags of training, and what stands in its way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, train
from burnish_train.choose.space import read_table, space
from burnish_train.cli import train as command_train
from burnish_train.config import read_recipe
from tiny_model import make_encoder
from training import record_of

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPES = Path(__file__).parents[1] / "train" / "recipes"


def test_every_recipe_loads():
    recipes = sorted(path for path in RECIPES.rglob("*.toml") if not path.name.startswith("pretrain"))  # another verb's
    assert {"intent.toml", "sentiment.toml"} <= {path.name for path in recipes}
    for path in recipes:
        given = {"unlabelled": "texts.jsonl"} if "label_spreading" in path.read_text(encoding="utf-8") else {}
        config = read_recipe(path, model="encoder", train="train.jsonl", out="runs/a", **given)
        assert config.out == Path("runs/a")
        first = path.read_text(encoding="utf-8").splitlines()[0]
        verb = "search" if read_table(path) else "train"
        assert first.startswith(f"# burnish {verb} {path.relative_to(RECIPES.parents[1]).as_posix()} "), path
        if verb == "search":
            assert space(read_table(path), config)


def test_unknown_keys_of_a_recipe_are_all_said_at_once(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('epochs = 3\nlerning_rate = 1e-4\nnum_train_epochs = 0\npooling = "max"\n', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_recipe(path, model="m", train="t", out="o")
    said = str(caught.value)
    assert said.startswith(f"{path}: unknown keys 'epochs', 'lerning_rate' (known: ")
    for known in to_dict(TrainConfig(model="m", train="t", out=Path("o"))):
        assert known in said
    assert "num_train_epochs must be at least 0.001, not 0" in said
    assert "pooling must be one of first, mean, markers, markers-mean, not 'max'" in said


def test_the_command_prints_one_json_object_and_a_flag_wins(tmp_path, tiny_settings):
    recipe = tmp_path / "a.toml"
    values = {**tiny_settings, "num_train_epochs": 9.0}
    recipe.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8")
    out = tmp_path / "deep" / "run"
    result = CliRunner().invoke(command_train, [str(recipe), "--out", str(out), "--num-train-epochs", "0.5", "--json"])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["checkpoint"] == str(out)
    assert told["settings"]["num_train_epochs"] == 0.5
    assert told["steps"] == 7
    assert "108 rows to train, 12 dev, 60 test, 3 labels; CPU with 1 threads, fp32" in result.stderr
    record = record_of(out)
    assert told == {"checkpoint": str(out), **{key: value for key, value in record.items() if key != "format"}}
    assert record["seconds"] > 0, "how long it took belongs to the record"


# What stands in the way


def test_what_stands_at_out_is_not_touched_unless_asked(train_config, tiny_checkpoint, tmp_path):
    out = Path(shutil.copytree(tiny_checkpoint, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=r"run exists already; give another --out, or --overwrite"):
        train(train_config())
    with pytest.raises(InputError, match=r"run exists already"):
        train(train_config(), resume=True)
    with pytest.raises(InputError, match="no such file"):
        train(train_config(train="missing.jsonl"), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    train(train_config(num_train_epochs=0.5), overwrite=True)
    assert record_of(out)["steps"] == 7
    assert not (tmp_path / "run.partial").exists()


def test_overwrite_does_not_empty_a_folder_that_is_no_checkpoint(train_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"run .*not a checkpoint"):
        train(train_config(num_train_epochs=0.1), overwrite=True)
    assert (tmp_path / "run" / "thesis.txt").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "no model", "cut weights", "words"])
def test_an_unknown_model_leaves_nothing_behind(train_config, tmp_path, kind):
    folder = tmp_path / "model"
    if kind == "empty":
        folder.mkdir()
    elif kind == "no model":
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "nothing"}', encoding="utf-8")
    elif kind != "missing":
        make_encoder(folder)
        name = "model.safetensors" if kind == "cut weights" else "config.json"
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="model") as caught:
        train(train_config(model=str(folder)))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "model") == []
