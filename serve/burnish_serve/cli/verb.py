"""What every verb shares: ``--json``, ``--debug``, and one sentence with an exit status for whatever goes wrong.

A verb returns a `Report`; here it becomes text for people or exactly one JSON object on standard output.

>>> @click.command()
... @verb()
... def hello() -> Report:
...     return Report({"answer": 42}, "the answer is 42")
"""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click

from burnish_serve.errors import BurnishError, MissingExtraError


class Report(NamedTuple):
    """What a verb found."""

    data: Mapping[str, Any]
    """For ``--json``."""
    text: str
    """For people; empty where the answers themselves went to standard output."""
    status: int = 0
    """Exit status: not 0 where the report itself is bad news, as of `burnish doctor`."""


def verb(extra: str | None = None) -> Callable[[Callable[..., Report]], Callable[..., None]]:
    """Return a decorator that makes a function returning a `Report` the body of a click command.

    Args:
        extra: the extra that brings the verb's packages; named where one of them is missing.
    """

    def decorate(function: Callable[..., Report]) -> Callable[..., None]:
        @click.option("--json", "as_json", is_flag=True, help="print exactly one JSON object on standard output")
        @click.option("--debug", is_flag=True, help="show the traceback of an error")
        @functools.wraps(function)
        def body(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
            if not debug:
                warnings.simplefilter("ignore")
                warnings.filterwarnings("default", category=RuntimeWarning, module=r"burnish_serve.*")
            warnings.showwarning = _show_warning
            if isinstance(sys.stdout, io.TextIOWrapper):  # JSON is UTF-8 whatever the terminal's locale
                sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
            try:
                report = function(*args, **kwargs)
                if as_json:
                    click.echo(json.dumps(report.data, ensure_ascii=False, default=str))
                elif report.text:
                    click.echo(report.text)
            except (click.exceptions.Exit, click.ClickException):
                raise
            except BrokenPipeError:
                _drop_output()
                sys.exit(1)
            except (Exception, KeyboardInterrupt) as error:
                if debug:
                    raise
                message, status = explain(error, extra)
                click.echo(f"burnish: {message}", err=True)
                if as_json:
                    try:
                        click.echo(json.dumps({"error": message, "exit_status": status}, ensure_ascii=False))
                    except OSError:
                        _drop_output()
                sys.exit(status)
            sys.exit(report.status)

        return body

    return decorate


def explain(error: BaseException, extra: str | None = None) -> tuple[str, int]:
    """Return one sentence about an error, and the exit status."""
    if isinstance(error, BurnishError):
        return str(error), error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 1
    if isinstance(error, ImportError) and extra:
        missing = MissingExtraError(f"this verb ({error.name} is missing, and it)", extra)
        return str(missing), missing.exit_status
    if isinstance(error, MemoryError):
        return "out of memory: lower the batch size", 1
    if isinstance(error, OSError) and error.errno is not None:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        return f"{error.filename}: {reason}" if error.filename else f"{reason} (nothing was left half-written)", 1
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if "No space left on device" in str(error):
        return f"the disk is full ({said})", 1
    return f"this should not happen ({said}); --debug shows where, for a report", 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"burnish: warning: {message}", err=True)


def _drop_output() -> None:
    """Write no more where the reader of our output has gone, as `head` does, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
