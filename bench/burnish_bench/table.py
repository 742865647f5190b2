"""The figures as a table for people: variants one a line, then the sweep, then what they were taken on.

>>> print(render(bench("bundle/", BenchConfig())))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def render(data: Mapping[str, Any]) -> str:
    """Return the report of `burnish_bench.report.bench` as text; ``-`` stands where the samples support no figure."""
    parts = [
        columns(rows) if number == 0 else f"{title}\n{columns(rows)}"
        for number, (title, rows) in enumerate(tables(data))
    ]
    return "\n\n".join([*parts, notes(data)])


def tables(data: Mapping[str, Any]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the title and the rows of each table; the first row is its head."""
    yield "variants", _variant_rows(data)
    if next(iter(data["variants"].values()))["sweep"]:
        yield "session alone, random tokens: median ms of a batch (texts a second)", _cell_rows(data)
    if any(found["at_rates"] for found in data["variants"].values()):
        yield (
            "texts that come at random: p50, p95 and p99 of the wait in ms (texts a second answered)",
            _wait_rows(data),
        )
    if any(found["cold"] for found in data["variants"].values()):
        yield "a fresh process: seconds to its first answer, and the most memory it held", _cold_rows(data)
    if data["peers"]:
        yield "peers, on the same rows with the same threads", _peer_rows(data)
    if "gate" in data:
        yield "speed against the saved run, in units of the reference", _gate_rows(data["gate"])


def _variant_rows(data: Mapping[str, Any]) -> list[list[str]]:
    baseline = data["baseline"]
    interval, waits = "95 % interval", ("p50 ms", "p95 ms", "p99 ms")
    rows = [["variant", "MB", data["metric"], "texts/s", interval, f"x {baseline}", interval, *waits]]
    for name, found in data["variants"].items():
        speed, times, wait = found["throughput"], found["speedup"], found["latency"]
        rows.append(
            [
                name,
                f"{found['size_mb']:.1f}",
                _number(found["score"], 4),
                f"{speed['texts_per_second']:,.0f}",
                _interval(speed, 0),
                _number(times["median"], 2),
                _interval(times, 2),
                *(_number(wait[key], 2) for key in ("p50_ms", "p95_ms", "p99_ms")),
            ]
        )
    return rows


def _cell_rows(data: Mapping[str, Any]) -> list[list[str]]:
    variants = data["variants"]
    rows = [["batch", "tokens", *variants]]
    for cells in zip(*(found["sweep"] for found in variants.values()), strict=True):
        figures = [f"{cell['median_ms']:,.2f} ({cell['texts_per_second']:,.0f})" for cell in cells]
        rows.append([str(cells[0]["batch_size"]), str(cells[0]["length"]), *figures])
    return rows


def _wait_rows(data: Mapping[str, Any]) -> list[list[str]]:
    variants = data["variants"]
    rows = [["texts/s", *variants]]
    for some in zip(*(found["at_rates"] for found in variants.values()), strict=True):
        figures = [
            " / ".join(_number(one["latency"][key], 1) for key in ("p50_ms", "p95_ms", "p99_ms"))
            + f" ({one['answered']:,.0f})"
            for one in some
        ]
        rows.append([f"{some[0]['rate']:,g}", *figures])
    return rows


def _cold_rows(data: Mapping[str, Any]) -> list[list[str]]:
    rows = [["variant", "seconds", "95 % interval", "import", "load", "first answer", "MB"]]
    for name, found in data["variants"].items():
        cold = found["cold"]
        parts = [_number(cold[key], 3) for key in ("imports", "load", "first")]
        memory = _number(cold["peak_mb"], 0)
        rows.append([name, _number(cold["seconds"]["median"], 3), _interval(cold["seconds"], 3), *parts, memory])
    return rows


def _peer_rows(data: Mapping[str, Any]) -> list[list[str]]:
    interval, waits = "95 % interval", ("p50 ms", "p95 ms")
    rows = [["peer", "texts/s", interval, f"{data['leader']} x", interval, *waits, "same labels"]]
    for name, found in data["peers"].items():
        speed, times, wait = found["throughput"], found["behind"], found["latency"]
        rows.append(
            [
                name,
                f"{speed['texts_per_second']:,.0f}",
                _interval(speed, 0),
                _number(times["median"], 2),
                _interval(times, 2),
                *(_number(wait[key], 2) for key in ("p50_ms", "p95_ms")),
                f"{found['agreement']:.2%}",
            ]
        )
    return rows


def _gate_rows(gate: Mapping[str, Any]) -> list[list[str]]:
    rows = [["variant", "ratio", "95 % interval", f"at least {1 - gate['drop']:g}"]]
    for name, found in gate["variants"].items():
        rows.append([name, _number(found["ratio"], 3), _interval(found, 3), "slower" if found["slower"] else "passed"])
    return rows


def notes(data: Mapping[str, Any]) -> str:
    """Return what the figures were taken on, in lines."""
    rows, about = data["rows"], data["machine"]
    said = f"{rows['texts']:,} of {rows['source']}, {rows['mean_tokens']:g} tokens each in the mean"
    if rows["source"] == "golden rows":
        said = f"the bundle's {rows['distinct']} golden rows, repeated to {rows['texts']:,}, {rows['mean_tokens']:g} "
        said += "tokens each in the mean; --data takes your own"
    said += f"; {rows['padding']:.1%} of a batch is padding"
    if rows["cut"]:
        said += "; the file has more, which --max-rows takes"
    if rows["truncated"]:
        said += f"; cut at {rows['max_length']} tokens: {rows['truncated']:,}"
    samples = min(found["latency"]["samples"] for found in data["variants"].values())
    return "\n".join(
        [
            f"rows     {said}",
            f"texts/s  whole calls, tokenization included; variants in turns in one run (rounds: {data['rounds']})",
            f"p50 …    one text a call, calls: {samples:,} (p50 needs 20, p95 200, p99 1,000: more with --seconds)",
            f"machine  {about['cpu']}, {data['threads']} threads, {data['provider']}",
        ]
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _interval(found: Mapping[str, Any], digits: int) -> str:
    return "-" if found["low"] is None else f"{found['low']:,.{digits}f} to {found['high']:,.{digits}f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, the first column to the left and all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
