"""Options that several verbs have, said once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from burnish_serve.providers import DEVICES, PROVIDERS, contradiction
from burnish_serve.tasks.grouping import STRATEGIES
from burnish_serve.text import ON_LONG

text_column_option = click.option("--text-column", default="text", help="column that holds the text  [default: text]")
label_column_option = click.option(
    "--label-column", help="column that holds what is right  [default: the task's: label, labels, score, tags …]"
)
on_long_option = click.option(
    "--on-long",
    type=click.Choice(ON_LONG),
    help="what becomes of a text that is longer than the model  [default: the task's]",
)
variant_option = click.option("--variant", help="variant of the bundle  [default: the manifest's for this machine]")
device_option = click.option(
    "--device", type=click.Choice(DEVICES), default="auto", help="where to run  [default: auto]"
)
signature_option = click.option(
    "--require-signature",
    "public_key",
    metavar="KEY.pub",
    help="refuse a bundle that was not signed with the private half of this key",
)
threads_option = click.option("--threads", type=click.IntRange(1), help="threads of one run  [default: the CPU quota]")


class TopK(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A whole number from 1, ``all``, or ``threshold``."""

    name = "N|all|threshold"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or the word."""
        if value in {"all", "threshold"} or isinstance(value, int):
            return value
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a whole number from 1 nor 'all' nor 'threshold'", param, ctx)
        return int(value)


TASK_OPTIONS = {
    "top_k": click.option(
        "--top-k",
        type=TopK(),
        help="how many answers a row, best first; threshold gives the labels that reach theirs  [default: the task's]",
    ),
    "reject_below": click.option(
        "--reject-below",
        type=click.FloatRange(0, 1),
        help="score below which the label for rejection is the answer  [default: as fitted in training; 0 for never]",
    ),
    "aggregation_strategy": click.option(
        "--aggregation-strategy",
        type=click.Choice(STRATEGIES),
        help="how tokens become spans: none leaves tokens, simple joins them, the others give a word one label  "
        "[default: first]",
    ),
    "max_answer_len": click.option(
        "--max-answer-len", type=click.IntRange(1), help="tokens of an answer at the most  [default: 15]"
    ),
    "handle_impossible_answer": click.option(
        "--handle-impossible-answer/--no-handle-impossible-answer",
        default=None,
        help="whether the answer may be that there is none, the empty text  "
        "[default: where training fitted a threshold]",
    ),
    "align_to_words": click.option(
        "--align-to-words/--no-align-to-words",
        default=None,
        help="whether answers begin and end with whole words  [default: they do]",
    ),
}


def task_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of all tasks, and hand those that were given on as one argument, ``options``."""

    @functools.wraps(command)
    def gathered(*args: Any, **given: Any) -> None:
        options = {name: value for name in TASK_OPTIONS if (value := given.pop(name)) is not None}
        command(*args, **given, options={name: None if value == "all" else value for name, value in options.items()})

    for option in reversed(TASK_OPTIONS.values()):
        gathered = option(gathered)
    return gathered


def provider_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that has ``--device`` the flag ``--provider`` too; two that contradict are wrong usage."""

    @click.option(
        "--provider",
        type=click.Choice(tuple(PROVIDERS)),
        help="execution provider of ONNX Runtime; implies the device  [default: the device's own]",
    )
    @functools.wraps(command)
    def checked(*args: Any, **given: Any) -> None:
        check_device(given["device"], given["provider"])
        command(*args, **given)

    return checked


def check_device(device: str | None, provider: str | None) -> None:
    """Raise `click.UsageError` where a device and a provider were given that cannot both be meant."""
    if problem := contradiction(device or "auto", provider):
        raise click.UsageError(problem)
