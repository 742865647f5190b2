"""A recipe with three mistakes must say all three at once, and a flag must win over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from burnish_serve.config import configure, flag_name, flags, read_toml, setting, to_dict
from burnish_serve.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Example:
    """Every kind of setting there is."""

    model: str = setting("what is trained")
    num_epochs: int = setting("how often each row is seen", default=3, minimum=1)
    rate: float = setting("step size", default=0.1, minimum=0, below=1)
    precision: str = setting("of the numbers", default="fp32", choices=("fp32", "bf16"))
    shuffle: bool = setting("mix the rows", default=True)
    out: Path | None = setting("where to write", default=None)  # noqa: RUF009  # it is a field


def test_defaults_recipe_and_flags_in_that_order():
    recipe = {"model": "a", "num_epochs": 5, "rate": 0}
    config = configure(Example, recipe, model="b", num_epochs=None, out="folder")
    assert config == Example(model="b", num_epochs=5, rate=0.0, out=Path("folder"))
    assert isinstance(config.rate, float)
    assert to_dict(config)["out"] == "folder"


def test_false_and_zero_are_flags_that_were_given():
    config = configure(Example, {"model": "a", "shuffle": True, "rate": 0.5}, shuffle=False, rate=0.0)
    assert (config.shuffle, config.rate) == (False, 0.0)


def test_all_that_is_wrong_is_said_at_once():
    recipe = {"num_epoch": 3, "reat": 1, "num_epochs": 0, "rate": 1.0, "precision": "fp8", "shuffle": "yes"}
    with pytest.raises(InputError) as caught:
        configure(Example, recipe, source="a.toml")
    assert str(caught.value).split("; ") == [
        "a.toml: unknown keys 'num_epoch', 'reat' (known: model, num_epochs, out, precision, rate, shuffle)",
        "model is needed: give --model or set it in a recipe",
        "num_epochs must be at least 1, not 0",
        "rate must be below 1, not 1.0",
        "precision must be one of fp32, bf16, not 'fp8'",
        "shuffle must be true or false, not 'yes'",
    ]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_epochs", 1.5, "a whole number, not 1.5"),
        ("num_epochs", True, "a whole number, not True"),
        ("num_epochs", "3", "a whole number, not '3'"),
        ("rate", "fast", "a number, not 'fast'"),
        ("rate", False, "a number, not False"),
        ("rate", float("nan"), "at least 0, not nan"),
        ("rate", -0.1, "at least 0, not -0.1"),
        ("model", 3, "text, not 3"),
        ("shuffle", 1, "true or false, not 1"),
        ("out", 3, "a path, not 3"),
        ("out", ["a"], "a path, not"),
    ],
)
def test_each_value_is_checked_wherever_it_comes_from(key, value, said):
    for recipe, given in (({"model": "a", key: value}, {}), ({"model": "a"}, {key: value})):
        with pytest.raises(InputError, match=f"{key} must be {said}"):
            configure(Example, recipe, **given)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such recipe: .*a.toml"),
        (b"rate = \n", "a.toml is not a TOML file: .*line 1"),
        (b"a = '\xff'", "not a TOML"),
    ],
)
def test_recipes_that_cannot_be_read(tmp_path, content, said):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_toml(path)


def test_a_recipe_is_read(tmp_path):
    (tmp_path / "a.toml").write_text('model = "é"\nrate = 1e-4\n', encoding="utf-8")
    assert read_toml(tmp_path / "a.toml") == {"model": "é", "rate": 1e-4}


@pytest.fixture
def given():
    """Return a function that gives back what a command with these flags receives."""
    seen = {}

    @click.command()
    @flags(Example)
    def command(**values):
        seen.update(values)

    def run(*arguments):
        seen.clear()
        result = CliRunner().invoke(command, arguments)
        return result, dict(seen)

    return run


def test_every_setting_is_a_flag_and_those_not_given_are_none(given):
    _, values = given()
    assert values == dict.fromkeys(["model", "num_epochs", "rate", "precision", "shuffle", "out"])
    _, values = given("--model", "m", "--num-epochs", "2", "--rate", "0.5", "--no-shuffle", "--out", "x")
    assert values == {"model": "m", "num_epochs": 2, "rate": 0.5, "precision": None, "shuffle": False, "out": "x"}
    assert flag_name("num_epochs") == "--num-epochs"


def test_help_names_every_flag_with_its_default(given):
    result, _ = given("--help")
    for shown in (
        "--num-epochs",
        "[default: 3]",
        "--shuffle / --no-shuffle",
        "[fp32|bf16]",
        "how often each row is seen",
    ):
        assert shown in result.output


@pytest.mark.parametrize("wrong", [("--precision", "fp8"), ("--num-epochs", "x"), ("--num-epoch", "3")])
def test_wrong_flags_are_wrong_usage(given, wrong):
    result, _ = given(*wrong)
    assert result.exit_code == 2
