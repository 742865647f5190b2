"""What a search draws settings from: the table of a recipe, and all that can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish_serve.errors import InputError
from burnish_train.choose.space import grid, read_table, space
from burnish_train.config import read_recipe

WRONG = {
    "learning_rat": [1e-4],
    "train": ["a.jsonl"],
    "num_train_epochs": [0, 3],
    "learning_rate": {"low": 1e-3, "high": 1e-5},
    "warmup_ratio": {"low": 0.1, "high": 1.0},
    "weight_decay": {"low": 0.0, "high": 0.1, "log": True},
    "per_device_train_batch_size": {"low": 8, "high": 32, "step": 0.5},
    "max_length": {"low": 8.5, "high": 32},
    "label_smoothing_factor": 0.1,
    "class_weights": ["none", "square"],
    "pooling": {"low": 1, "high": 2},
    "max_grad_norm": [],
    "word_dropout": {"most": 0.3},
    "tag_scheme": ["BIO", "BIOES"],
}


def test_all_that_is_wrong_with_a_space_is_said_at_once(train_config):
    with pytest.raises(InputError) as caught:
        space(WRONG, train_config(), "a.toml")
    said = str(caught.value).split("; ")
    assert said[0].startswith("a.toml: [search] has no use for 'learning_rat', 'train' (it may have: ")
    assert " seed," not in said[0]
    assert said[1:] == [
        "[search] class_weights must be one of none, balanced, sqrt, not 'square'",
        "[search] label_smoothing_factor must be a list, or a table of low and high, and log or step, not 0.1",
        "[search] learning_rate: low must be below high, not 0.001 and 1e-05",
        "[search] max_grad_norm must be a list of different single values, not []",
        "[search] max_length must be a whole number, not 8.5",
        "[search] num_train_epochs must be at least 0.001, not 0.0",
        "[search] per_device_train_batch_size: step must be a whole number from 1 to high - low, not 0.5",
        "[search] pooling must be text, not 1",
        "[search] pooling must be text, not 2",
        "[search] tag_scheme 'BIOES' is for token-classification, not text-classification",
        "[search] warmup_ratio must be below 1, not 1.0",
        "[search] weight_decay: a range with log begins above 0 and has no step",
        "[search] word_dropout must be a list, or a table of low and high, and log or step, not {'most': 0.3}",
    ]
    with pytest.raises(InputError, match=r"\[search\] names no setting"):
        space({}, train_config())


def test_the_space_where_none_is_given(train_config):
    plain = space(None, train_config())
    assert sorted(plain) == [
        *("label_smoothing_factor", "learning_rate", "num_train_epochs", "per_device_train_batch_size", "warmup_ratio")
    ]
    assert plain["learning_rate"].log
    assert "label_smoothing_factor" not in space(None, train_config(task="regression"))
    assert "label_smoothing_factor" in space(None, train_config(task="token-classification"))


def test_the_recipe_of_the_page_has_a_space(tmp_path, train_config):
    page = (Path(__file__).parents[1] / "docs" / "search.md").read_text(encoding="utf-8")
    (tmp_path / "a.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert len(space(read_table(tmp_path / "a.toml"), train_config())) == 4


def test_a_recipe_with_a_space_is_a_recipe_of_train(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('learning_rate = 1e-4\n[search]\nlearning_rate = [1e-4, "what train never looks at"]\n')
    assert read_recipe(path, model="m", train="t", out="o").learning_rate == 1e-4
    path.write_text("search = 3\n")
    with pytest.raises(InputError, match="unknown key 'search'"):
        read_recipe(path, model="m", train="t", out="o")


def test_the_points_of_a_grid(train_config):
    stepped = {"warmup_ratio": {"low": 0.0, "high": 0.35, "step": 0.1}, "max_length": {"low": 8, "high": 16}}
    points = grid(space(stepped, train_config()))
    assert points == {"max_length": list(range(8, 17)), "warmup_ratio": pytest.approx([0.0, 0.1, 0.2, 0.3])}
