"""``burnish serve``: bundles over HTTP."""

from __future__ import annotations

from typing import Any

import click

from burnish_serve.cli.options import check_device
from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import configure, flags
from burnish_serve.errors import InputError
from burnish_serve.http.config import ServeConfig


@click.command("serve", short_help="answer over HTTP")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE…")
@flags(ServeConfig)
@verb(extra="http")
def command(bundles: tuple[str, ...], **given: Any) -> Report:
    """Answer over HTTP with one bundle or several, each by its folder's name.

    It listens at 127.0.0.1 alone unless told otherwise. SIGTERM ends it when what was accepted is answered; SIGHUP
    opens the bundles again and puts each in the place of the one before.
    """
    try:
        config = configure(ServeConfig, {}, **given)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    check_device(config.device, config.provider)
    from burnish_serve.http.workers import run

    run(bundles, config)
    return Report({"bundles": list(bundles)}, "")
