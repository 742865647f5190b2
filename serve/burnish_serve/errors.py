"""Every error that a user can meet, in one tree, each class with the exit status of the command.

::

    BurnishError                1  something was wrong; the message says what, where, and what would be right
    ├── InputError              1  a file, a row, a column, a recipe, a checkpoint
    ├── MissingExtraError       1  a package is needed that an extra brings
    ├── FusionError             1  the exported graph holds in pieces what should be one operator
    ├── QualityGateError        3  the score asked for was not reached
    ├── ProofError              4  the exported graph does not answer as the model does
    ├── BundleError             5  the bundle is damaged, or refused
    ├── DeviceError             6  the device asked for cannot be used
    └── PerformanceGateError    7  the speed asked for was not reached

Status 2 is click's own, for wrong usage. Anything else that is raised is our bug and shows as one.

>>> raise InputError("no such file: rows.jsonl")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import ClassVar


class BurnishError(Exception):
    """Base of all errors meant for people; ``str(error)`` is one sentence without a traceback."""

    exit_status: ClassVar[int] = 1


class InputError(BurnishError):
    """A file, row, column, recipe, model or checkpoint that cannot be used as it is."""


class MissingExtraError(BurnishError):
    """A verb or a file format needs packages that are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'burnish[{extra}]'")


class FusionError(BurnishError):
    """The exported graph lacks fusions that its architecture should give: right answers, slower than they should be."""


class QualityGateError(BurnishError):
    """A score stayed under what was demanded."""

    exit_status = 3


class ProofError(BurnishError):
    """The exported graph does not answer as the model does."""

    exit_status = 4


class BundleError(BurnishError):
    """The bundle is damaged, incomplete, or holds something that it must not hold."""

    exit_status = 5


class DeviceError(BurnishError):
    """The device or execution provider asked for cannot be used on this machine."""

    exit_status = 6


class PerformanceGateError(BurnishError):
    """A latency or throughput gate was missed."""

    exit_status = 7
