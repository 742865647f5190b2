"""Settings of a verb: one frozen dataclass, filled from a TOML recipe and from flags, where a flag wins.

Each field is made by `setting`, which carries its help text and its bounds, so that the flag, the recipe key and the
check come from one place. All that is wrong is said at once:

>>> @dataclass(frozen=True, kw_only=True)
... class Example:
...     epochs: int = setting("how often each row is seen", default=3, minimum=1)
>>> configure(Example, {"epochs": 0, "epoch": 2}, source="a.toml")
Traceback (most recent call last):
...
burnish_serve.errors.InputError: a.toml: unknown key 'epoch' (known: epochs); epochs must be at least 1, not 0
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from burnish_serve.errors import InputError

__all__ = ["check", "configure", "dataclass", "flags", "read_toml", "setting", "to_dict"]

Config = TypeVar("Config")


def setting(
    text: str,
    *,
    default: Any = MISSING,
    minimum: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """Return a dataclass field with its help text and what its value must satisfy.

    Args:
        text: one line of help.
        default: the value where none is given; a field without one must be given.
        minimum: the least value that is allowed.
        below: the value must stay under this.
        choices: the only values that are allowed.
    """
    return field(default=default, metadata={"help": text, "minimum": minimum, "below": below, "choices": choices})


def flag_name(name: str) -> str:
    """Return the flag of a field: ``learning_rate`` is ``--learning-rate``."""
    return "--" + name.replace("_", "-")


def flags(config: type[Any], *, without: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a click command one option for each field of a config dataclass.

    Options that were not given arrive as None, so that `configure` knows what to take from the recipe.

    Args:
        config: a dataclass whose fields come from `setting`.
        without: fields that the command takes as arguments.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(config)
        for item in reversed(dataclasses.fields(config)):
            if item.name in without:
                continue
            kind = _plain_type(hints[item.name])
            text = item.metadata["help"]
            if item.default is not MISSING and item.default is not None:
                text += f"  [default: {item.default}]"
            name = flag_name(item.name)
            if typing.get_origin(kind) is tuple:
                one = click.Choice(item.metadata["choices"]) if item.metadata["choices"] else None
                text += "; may be repeated"
                option = click.option(name, item.name, multiple=True, type=one, default=None, help=text)
            elif kind is bool:
                option = click.option(f"{name}/--no-{name[2:]}", item.name, default=None, help=text)
            else:
                choices = item.metadata["choices"]
                shown = click.Choice(choices) if choices else {Path: str}.get(kind, kind)
                option = click.option(name, item.name, type=shown, default=None, help=text)
            command = option(command)
        return command

    return decorate


def read_toml(path: Path) -> dict[str, Any]:
    """Return the keys of a recipe.

    Raises:
        InputError: the file is missing or is not TOML; the message says where.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no such recipe: {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error


def configure(config: type[Config], values: Mapping[str, Any], *, source: str = "", **given: Any) -> Config:
    """Return the config from a recipe's keys, overruled by the flags that were given (those that are not None).

    Args:
        config: a dataclass whose fields come from `setting`.
        values: keys of a recipe.
        source: the recipe's name, for messages.
        given: values of flags.

    Raises:
        InputError: with everything that is wrong: unknown keys, missing ones, wrong types, values out of bounds.
    """
    items = {item.name: item for item in dataclasses.fields(config)}  # type: ignore[arg-type]  # a dataclass, as said
    hints = typing.get_type_hints(config)
    problems = []
    if unknown := sorted(set(values) - set(items)):
        names = ", ".join(repr(key) for key in unknown)
        problems.append(f"unknown key{'s' * (len(unknown) > 1)} {names} (known: {', '.join(sorted(items))})")
    merged = {key: value for key, value in values.items() if key in items}
    merged.update({key: value for key, value in given.items() if value is not None and value != ()})
    final: dict[str, Any] = {}
    for name, item in items.items():
        if name not in merged:
            if item.default is MISSING:
                problems.append(f"{name} is needed: give {flag_name(name)} or set it in a recipe")
            continue
        value, problem = _checked(name, merged[name], hints[name], item.metadata)
        final[name] = value
        problems += [problem] if problem else []
    if problems:
        raise InputError((f"{source}: " if source else "") + "; ".join(problems))
    return config(**final)


def check(config: type[Any], name: str, value: Any) -> tuple[Any, str | None]:
    """Return a value of one setting in the setting's type, and what is wrong with it; None where nothing is."""
    (item,) = (item for item in dataclasses.fields(config) if item.name == name)
    return _checked(name, value, typing.get_type_hints(config)[name], item.metadata)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as JSON holds it: paths as text, tuples as lists."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in dataclasses.asdict(config).items()}


def _checked(name: str, value: Any, hint: Any, rules: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Return the value in its type, and what is wrong with it."""
    kind = _plain_type(hint)
    if value is None:
        return None, None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is Path and isinstance(value, str):
        value = Path(value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            other = [one for one in value if rules["choices"] and one not in rules["choices"]]
            told = f"{name} must be of {', '.join(rules['choices'])}, not {other[0]!r}" if other else None
            return tuple(value), told
        return value, f"{name} must be a list of texts, not {value!r}"
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return value, f"{name} must be {_type_name(kind)}, not {value!r}"
    if rules["choices"] and value not in rules["choices"]:
        return value, f"{name} must be one of {', '.join(rules['choices'])}, not {value!r}"
    if rules["minimum"] is not None and not value >= rules["minimum"]:
        return value, f"{name} must be at least {rules['minimum']}, not {value}"
    if rules["below"] is not None and not value < rules["below"]:
        return value, f"{name} must be below {rules['below']}, not {value}"
    return value, None


def _plain_type(hint: Any) -> Any:
    """Return the type of an annotation without its None."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    return hint


def _type_name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}[kind]
