"""The settings of ``burnish bench`` and ``burnish tune``: every field is a flag of the command.

>>> BenchConfig(batch_sizes="1,8", lengths="16,512").cells(max_length=128)
[(1, 16), (1, 128), (8, 16), (8, 128)]
"""

from __future__ import annotations

from pathlib import Path

from burnish_serve.config import dataclass, setting
from burnish_serve.errors import InputError
from burnish_serve.providers import DEVICES, PROVIDERS


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """On which rows to measure, on what, and for how long."""

    data: str | None = setting(
        "rows to measure on: .jsonl .csv .tsv .parquet .txt; the bundle's golden rows where none are given",
        default=None,
    )
    text_column: str = setting("column that holds the text", default="text")
    max_rows: int = setting("rows of the data that are used at the most", default=4096, minimum=1)
    device: str = setting("where to run", default="auto", choices=DEVICES)
    provider: str | None = setting(
        "execution provider of ONNX Runtime; implies the device", default=None, choices=tuple(PROVIDERS)
    )
    require_signature: Path | None = setting(
        "refuse a bundle that was not signed with the private half of this key", default=None
    )
    threads: int | None = setting("threads of one run; the CPU quota where not given", default=None, minimum=1)
    rounds: int = setting("turns of each variant; a 95 % interval needs 6", default=10, minimum=1)
    seconds: float = setting(
        "time of each variant for throughput, for latency and for the sweep; at least a call a round",
        default=5.0,
        minimum=0,
        below=86_400,
    )


@dataclass(frozen=True, kw_only=True)
class BenchConfig(TuneConfig):
    """What else to measure.

    Raises:
        InputError: a list of sizes is not whole numbers from 1 with commas between them.
    """

    sweep: bool = setting("measure batch sizes and lengths too", default=True)
    batch_sizes: str = setting("rows of a batch in the sweep", default="1,8,32")
    lengths: str = setting("tokens of a row in the sweep; at most the bundle's max_length", default="16,64,128")
    arrival_rates: str = setting(
        "texts a second that come at random, with commas between rates: how long each then waits", default=""
    )
    cold_start: bool = setting(
        "measure what a fresh process costs too: seconds to its first answer, and memory", default=True
    )
    compare: bool = setting("measure peers in the same run, on the same rows", default=False)
    peers: str = setting("which of them, with commas between them, or all", default="all")
    peers_python: Path = setting(
        "the Python that has them, as make peers makes it", default=Path(".venv-peers/bin/python")
    )
    checkpoint: Path | None = setting(
        "folder that the bundle was exported from, for peers that run PyTorch", default=None
    )
    out: Path | None = setting("file for the JSON", default=None)
    html: Path | None = setting("file for a page with tables and plots, which needs no other file", default=None)
    gate: Path | None = setting(
        "figures that --out wrote before: exit status 7 where a variant has become slower", default=None
    )
    gate_drop: float = setting("share of the speed that the gate lets go", default=0.05, minimum=0, below=1)

    def __post_init__(self) -> None:
        """Check the lists, whether or not they will be used."""
        _numbers(self.batch_sizes, "batch_sizes")
        _numbers(self.lengths, "lengths")
        if self.arrival_rates:
            _numbers(self.arrival_rates, "arrival_rates")

    @property
    def rates(self) -> list[int]:
        """Return the rates of arrivals to measure at, in texts a second."""
        return _numbers(self.arrival_rates, "arrival_rates") if self.arrival_rates else []

    def cells(self, max_length: int) -> list[tuple[int, int]]:
        """Return ``(batch size, length in tokens)`` of each cell of the sweep, lengths cut at ``max_length``."""
        if not self.sweep:
            return []
        lengths = sorted({min(length, max_length) for length in _numbers(self.lengths, "lengths")})
        return [(size, length) for size in _numbers(self.batch_sizes, "batch_sizes") for length in lengths]


def _numbers(text: str, name: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"{name} must be whole numbers from 1 with commas between them, as 1,8,32, not {text!r}")
    return sorted({int(part) for part in parts})
