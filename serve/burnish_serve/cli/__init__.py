"""The command ``burnish``: a verb each, loaded only when it is called.

The runner's verbs stand beside this file; those of train, export and bench are found through the entry-point group
``burnish.commands``, so that ``burnish --help`` is quick and needs the runner's dependencies alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import click

# Every verb with its line of help, in the order of work; help must not import a verb.
VERBS = {
    "train": "fine-tune an encoder on labelled rows; writes a checkpoint",
    "train-multitask": "train one encoder on several tasks; writes checkpoints",
    "pretrain": "make an encoder from nothing but texts",
    "search": "try settings of training; writes the best as a recipe",
    "cross-validate": "score a recipe on folds of its rows",
    "audit": "find what is likely wrong in labelled rows",
    "soup": "average the weights of checkpoints into one",
    "compress": "make a checkpoint smaller and faster",
    "export": "turn a checkpoint into a fast, quantized, proven bundle",
    "predict": "answer the rows of a file, or texts",
    "serve": "answer over HTTP",
    "evaluate": "score a bundle or a checkpoint on labelled rows",
    "explain": "show which words made an answer",
    "bench": "measure latency and throughput of a bundle",
    "tune": "keep the settings that are the fastest on this machine",
    "inspect": "show what is in a bundle",
    "verify": "check that a bundle is whole and still answers as it did",
    "doctor": "show what this machine can run",
}
OWN = ("predict", "serve", "evaluate", "explain", "inspect", "verify", "doctor")


class Verbs(click.Group):
    """Finds verbs by name without importing the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, imported now."""
        if cmd_name in OWN:
            module: Any = importlib.import_module(f"burnish_serve.cli.{cmd_name}")
            return module.command  # type: ignore[no-any-return]  # a click.Command in each of our modules
        for entry in importlib.metadata.entry_points(group="burnish.commands", name=cmd_name):
            try:
                found: click.Command = entry.load()
            except ImportError as error:
                raise click.ClickException(f"{cmd_name} cannot be loaded: {error}; install burnish again") from error
            return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs from the table above."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="burnish", prog_name="burnish")
def main() -> None:
    """Fine-tune a text encoder, export it to a proven ONNX bundle, and run it fast without PyTorch.

    \b
    Exit status: 0 done; 1 failed; 2 usage; 3 a quality gate was missed; 4 the exported graph does not answer as
    the model does; 5 the bundle is damaged or refused; 6 the device cannot be used; 7 a speed gate was missed.
    """  # noqa: D301  # click's mark for lines that stay as they are
