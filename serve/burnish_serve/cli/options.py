"""Options that several verbs have, said once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from burnish_serve.providers import DEVICES, PROVIDERS, contradiction

text_column_option = click.option("--text-column", default="text", help="column that holds the text  [default: text]")
label_column_option = click.option(
    "--label-column", default="label", help="column that holds the label  [default: label]"
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
