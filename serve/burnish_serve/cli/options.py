"""Options that several verbs have, said once."""

from __future__ import annotations

import click

from burnish_serve.session import DEVICES

text_column_option = click.option("--text-column", default="text", help="column that holds the text  [default: text]")
label_column_option = click.option(
    "--label-column", default="label", help="column that holds the label  [default: label]"
)
variant_option = click.option("--variant", help="variant of the bundle  [default: the manifest's for this machine]")
device_option = click.option(
    "--device", type=click.Choice(DEVICES), default="auto", help="where to run  [default: auto]"
)
threads_option = click.option("--threads", type=click.IntRange(1), help="threads of one run  [default: the CPU quota]")
