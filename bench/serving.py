"""What a server holds under load, figure by figure, asked by another process on the same machine.

    python bench/serving.py BUNDLE ROWS --other BUNDLE --only closed --only swap

Each scenario starts a server of its own, prints one line of JSON, and says whether the figures are those that are
wanted; ``make load`` runs them all, and adds an entry to ``bench/LOG.md``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import uvloop

import load
from attacks import attacks
from burnish_serve import machine
from started import BURNISH, Server, server

LOG = Path(__file__).with_name("LOG.md")
DEADLINE = 10.0
# Kinds of texts of the run of many requests, in copies of a row's text.
LENGTHS = (1, 1, 1, 2, 4, 8)


def closed(bundle: Path, texts: Sequence[str], rows: Path, seconds: float) -> dict[str, Any]:
    """Return texts a second of 32 clients that wait for their answers, against `burnish predict` in turns."""
    found: dict[str, list[float]] = {"http": [], "one request one run": [], "burnish predict": []}
    with server(bundle) as batched, server(bundle, flags=["--max-batch-tokens", "1"]) as single:
        for _ in range(5):
            for name, each in (("http", batched), ("one request one run", single)):
                found[name].append(rate_of(each, texts, 32, 1, seconds))
            found["burnish predict"].append(predicted(bundle, rows))
    rates = {name: round(statistics.median(some), 1) for name, some in found.items()}
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(found["http"], some, strict=True)), 3)
        for name, some in found.items()
    }
    wanted = ratios["burnish predict"] >= 0.65 and ratios["one request one run"] >= 1.8
    return {"texts_per_second": rates, "http_against": ratios, "as_wanted": wanted}


def opened(
    bundle: Path, texts: Sequence[str], seconds: float, count: int, times: float, goodput: float
) -> dict[str, Any]:
    """Return what becomes of requests that come at a multiple of what can be answered."""
    with server(bundle, flags=["--deadline", str(DEADLINE)]) as running:
        peak = statistics.median(rate_of(running, texts, 64 // count + 8, count, 5) for _ in range(3))
        idle = alone(running, texts, 2)
        before = running.memory()
        requests = load.requests_of(running.url, list(texts), count, None)
        found = uvloop.run(load.opened(running.url, requests, times * peak / count, seconds))
        recovered = normal_again(running, texts, 3 * idle)
        after = running.memory()
    told = load.summary(found, count, seconds)
    refused = told["refused_ms"] or {"p99": 0.0}
    kept = told["texts_per_second"] / peak
    refusals = told["statuses"].get("429", 0)
    wanted = (
        set(told["statuses"]) <= {"200", "429"}
        and told["answered_ms"]["p99"] <= DEADLINE * 1000
        and refused["p99"] < 50
        and told["refused_with_retry_after"] == refusals
        and kept >= goodput
        and recovered <= 5
    )
    return {
        "texts_a_request": count,
        "times_capacity": times,
        "peak_texts_per_second": round(peak, 1),
        "goodput_of_peak": round(kept, 3),
        **told,
        "memory_mib": [round(before, 1), round(after, 1)],
        "normal_again_after_s": round(recovered, 2),
        "as_wanted": wanted,
    }


def ended(bundle: Path, texts: Sequence[str], count: int = 1000) -> dict[str, Any]:
    """Return how many of the requests that were wholly sent before SIGTERM were answered."""

    async def run(running: Server) -> tuple[list[int], float]:
        requests = load.requests_of(running.url, list(texts), 1, None)
        clients = [load.client_of(running.url) for _ in range(count)]
        await asyncio.gather(*(client.connect() for client in clients))
        asked = [asyncio.ensure_future(client.ask(next(requests))) for client in clients]
        await asyncio.sleep(0)  # each has written its request
        while any(client.transport is not None and client.transport.get_write_buffer_size() for client in clients):
            await asyncio.sleep(0)
        signalled = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        return [status for status, _, _ in await asyncio.gather(*asked)], signalled

    with server(bundle) as running:
        statuses, signalled = uvloop.run(run(running))
        status = running.process.wait(60)
        took = time.monotonic() - signalled
    lost = sum(one != 200 for one in statuses)
    return {
        "sent": count,
        "lost": lost,
        "exit": status,
        "seconds": round(took, 2),
        "as_wanted": lost == 0 and status == 0 and took <= 30,
    }


def swapped(bundle: Path, other: Path, texts: Sequence[str], swaps: int) -> dict[str, Any]:
    """Return what clients see while a bundle takes the place of another, again and again."""
    some = list(texts[:160])
    requests = [some[start : start + 16] for start in range(0, len(some), 16)]
    right = [{request: answers_of(each, texts) for request, texts in enumerate(requests)} for each in (bundle, other)]
    found = {"answers": 0, "old": 0, "new": 0, "mixed": 0, "errors": 0}

    async def ask(url: str, ends: asyncio.Event) -> None:
        client = load.client_of(url)
        for number in itertools.cycle(range(len(requests))):
            if ends.is_set():
                break
            status, _, body = await client.ask(load.request_of(url, {"rows": requests[number]}))
            found["answers"] += 1
            if status != 200:
                found["errors"] += 1
                continue
            answers = json.loads(body)["answers"]
            kind = next(
                (name for name, each in zip(("old", "new"), right, strict=True) if answers == each[number]), "mixed"
            )
            found[kind] += 1
        client.close()

    async def run(running: Server, link: Path) -> list[float]:
        ends = asyncio.Event()
        asking = [asyncio.ensure_future(ask(running.url, ends)) for _ in range(4)]
        memory = []
        for number in range(swaps):
            point(link, (other, bundle)[number % 2])
            running.process.send_signal(signal.SIGHUP)
            while running.said().count("was replaced") <= number:
                await asyncio.sleep(0.02)
            memory.append(running.memory())
        ends.set()
        await asyncio.gather(*asking)
        return memory

    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model"
        point(link, bundle)
        with server(link) as running:
            memory = uvloop.run(run(running, link))
    early, late = statistics.median(memory[5:15]), statistics.median(memory[-10:])
    wanted = not found["errors"] and not found["mixed"] and found["old"] and found["new"] and late <= 1.05 * early
    return {"swaps": swaps, **found, "memory_mib": [round(early, 1), round(late, 1)], "as_wanted": bool(wanted)}


def remembered(
    bundle: Path, texts: Sequence[str], count: int, start: Sequence[str] = (str(BURNISH), "serve")
) -> dict[str, Any]:
    """Return how memory grows with requests of mixed lengths, in MiB for each 10,000."""
    bodies = [
        load.request_of("http://127.0.0.1/v1/predict", {"rows": [f"{text} " * LENGTHS[number % len(LENGTHS)]]})
        for number, text in enumerate(texts)
    ]
    with server(bundle, start=start) as running:
        requests = itertools.cycle(bodies)
        uvloop.run(load.counted(running.url, requests, 32, count // 4))  # until all shapes were seen
        steps, memory = [], []
        part = max(1, count // 20)
        for step in range(20):
            statuses = uvloop.run(load.counted(running.url, requests, 32, part))
            if set(statuses) != {200}:
                raise click.ClickException(f"not all requests were answered: {statuses}")
            steps.append((step + 1) * part / 10_000)
            memory.append(running.memory())
    slope = float(np.polyfit(steps, memory, 1)[0])
    return {
        "requests": part * 20,
        "memory_mib": [round(memory[0], 1), round(memory[-1], 1)],
        "mib_per_10000_requests": round(slope, 3),
        "as_wanted": slope <= 1,
    }


def hostile(bundle: Path, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return what bodies of bad will get, and what they cost the others, who ask 100 times a second."""
    found: dict[str, Any] = {}
    with server(bundle) as running:
        requests = load.requests_of(running.url, list(texts), 1, None)

        async def others(seconds: float) -> list[load.Outcome]:
            return await load.opened(running.url, requests, 100, seconds)

        async def under(bad: Callable[[], Any]) -> tuple[list[load.Outcome], list[tuple[int, float]]]:
            asking = asyncio.ensure_future(others(seconds))
            answers: list[tuple[int, float]] = []
            while not asking.done():
                answers += await bad()
                await asyncio.sleep(0.05)
            return await asking, answers

        uvloop.run(others(2))
        for name, bad in attacks(running.base).items():
            quiet = p99(uvloop.run(others(seconds)))
            before = running.memory()
            outcomes, answers = uvloop.run(under(bad))
            slowest = max(took for _, took in answers)
            found[name] = {
                "times": len(answers),
                "statuses": sorted({status for status, _ in answers}),
                "slowest_s": round(slowest, 3),
                "memory_mib": round(running.memory() - before, 1),
                "others_p99_ms": [round(quiet, 2), round(p99(outcomes), 2)],
                "others_lost": sum(status != 200 for _, _, status, _ in outcomes),
            }
    wanted = all(
        one["slowest_s"] <= 1
        and one["memory_mib"] <= 20
        and one["others_p99_ms"][1] <= 2 * one["others_p99_ms"][0]
        and not one["others_lost"]
        for one in found.values()
    )
    return {"attacks": found, "as_wanted": wanted}


def rate_of(running: Server, texts: Sequence[str], clients: int, count: int, seconds: float) -> float:
    """Return the texts a second of clients that wait for their answers."""
    requests = load.requests_of(running.url, list(texts), count, None)
    found = uvloop.run(load.closed(running.url, requests, clients, seconds))
    return float(load.summary(found, count, seconds)["texts_per_second"])


def predicted(bundle: Path, rows: Path) -> float:
    """Return the rows a second of ``burnish predict``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [BURNISH, "predict", bundle, rows, "--out", Path(folder) / "out.jsonl", "--json"]
        out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    return float(json.loads(out)["rows_per_second"])


def alone(running: Server, texts: Sequence[str], seconds: float) -> float:
    """Return the median seconds of a client that is alone."""
    requests = load.requests_of(running.url, list(texts), 1, None)
    return statistics.median(took for _, took, _, _ in uvloop.run(load.closed(running.url, requests, 1, seconds)))


def normal_again(running: Server, texts: Sequence[str], seconds: float) -> float:
    """Return the seconds until a client that is alone is answered as fast as given, ten times in a row."""
    begun = time.perf_counter()
    requests = load.requests_of(running.url, list(texts), 1, None)

    async def ask() -> None:
        client, fast = load.client_of(running.url), 0
        while fast < 10 and time.perf_counter() - begun < 60:
            sent = time.perf_counter()
            status, _, _ = await client.ask(next(requests))
            fast = fast + 1 if status == 200 and time.perf_counter() - sent <= seconds else 0

    uvloop.run(ask())
    return time.perf_counter() - begun


def answers_of(bundle: Path, texts: Sequence[str]) -> Any:
    """Return what a bundle's runner answers, as JSON holds it."""
    from burnish_serve import load as opened_runner

    return json.loads(json.dumps(opened_runner(bundle, device="cpu")(list(texts))))


def point(link: Path, target: Path) -> None:
    """Let a link point to another folder, in one step."""
    made = link.with_name("made")
    made.symlink_to(target.resolve())
    made.replace(link)


def p99(outcomes: Sequence[load.Outcome]) -> float:
    """Return the 99th percentile in milliseconds."""
    return float(np.percentile([took for _, took, _, _ in outcomes], 99)) * 1000


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("rows", type=click.Path(exists=True, path_type=Path))
@click.option("--other", type=click.Path(exists=True, path_type=Path), help="a second bundle, for swaps")
@click.option("--only", multiple=True, help="closed, open, single, end, swap, memory or hostile; may be repeated")
@click.option("--seconds", default=60.0, help="of the open loop  [default: 60]")
@click.option("--requests", default=100_000, help="of the run that watches memory  [default: 100000]")
@click.option("--swaps", default=100, help="[default: 100]")
@click.option("--log/--no-log", default=False, help="add an entry to bench/LOG.md")
def main(
    bundle: Path,
    rows: Path,
    other: Path | None,
    only: tuple[str, ...],
    seconds: float,
    requests: int,
    swaps: int,
    log: bool,
) -> None:
    """Measure what a server of BUNDLE holds under load with the texts of ROWS, a file of JSON lines."""
    texts = [json.loads(line)["text"] for line in rows.read_text(encoding="utf-8").splitlines()]
    scenarios: dict[str, Callable[[], dict[str, Any]]] = {
        "closed": lambda: closed(bundle, texts, rows, 8),
        "open": lambda: opened(bundle, texts, seconds, 16, 5, 0.9),
        "single": lambda: opened(bundle, texts, seconds, 1, 2, 0.6),
        "end": lambda: ended(bundle, texts),
        "memory": lambda: remembered(bundle, texts, requests),
        "hostile": lambda: hostile(bundle, texts, 5),
    }
    if other is not None:
        scenarios["swap"] = lambda: swapped(bundle, other, texts, swaps)
    found = {}
    for name, scenario in scenarios.items():
        if not only or name in only:
            found[name] = scenario()
            print(json.dumps({name: found[name]}), flush=True)
    if log:
        LOG.write_text(entered(LOG.read_text(encoding="utf-8"), found), encoding="utf-8")
    sys.exit(0 if all(one["as_wanted"] for one in found.values()) else 1)


def entered(log: str, found: dict[str, dict[str, Any]]) -> str:
    """Return the log with an entry of these figures before the first."""
    title = f"## {date.today():%Y-%m-%d} · A server under load: " + ", ".join(
        f"{name} {'as wanted' if one['as_wanted'] else 'not as wanted'}" for name, one in found.items()
    )
    where = machine.description()
    told = f"{where['cpu']}, {where['threads']} threads, ONNX Runtime {where.get('onnxruntime')}"
    lines = [
        title,
        "",
        f"- **machine**: {told}; the load on the same cores",
        "- **command**: `make load`",
        *(f"- **{name}**: `{json.dumps(one)}`" for name, one in found.items()),
        "",
        "",
    ]
    place = log.index("\n## ") + 1
    return log[:place] + "\n".join(lines) + log[place:]


if __name__ == "__main__":
    main()
