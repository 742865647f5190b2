"""``burnish audit``: its flags, and its findings as tables.

The module is light; PyTorch is imported when the work begins.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import configure, flags
from burnish_train.insight.audit_config import AuditConfig


@click.command(short_help="find what is likely wrong in labelled rows")
@click.argument("rows", metavar="ROWS")
@flags(AuditConfig, without=("rows",))
@verb(extra="train")
def audit(**given: Any) -> Report:
    """Find likely wrong labels, duplicates, leaks into held-out rows, and slices where answers are worse.

    With --target the answers of a trained model are looked at, and with --swap how they change with words that should
    not matter.
    """
    config = configure(AuditConfig, {}, **given)
    from burnish_train.insight.audit import audit as run
    from burnish_train.insight.audit_page import text

    found = run(config, log=lambda line: click.echo(line, file=sys.stderr))
    places = [f"written to {place}" for place in (config.out, config.html) if place]
    return Report(found, "\n".join([text(found, config.top), *places]))
