"""`burnish predict` against a transformers pipeline, in one run, in turns, on the same rows with the same threads.

Both take texts and give labels, tokenization included. The pipeline is timed inside its process, after one warm-up
batch, without its imports; `burnish predict` reports the time from its first row to its last. A table, then one JSON
line.

>>> # python bench/compare.py BUNDLE CHECKPOINT test.jsonl --rounds 3
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from burnish_serve import machine
from burnish_serve.rows import read_rows

BATCH = 32


@click.command()
@click.argument("bundle")
@click.argument("checkpoint")
@click.argument("data")
@click.option("--rounds", default=3, help="how often each takes its turn")
def main(bundle: str, checkpoint: str, data: str, rounds: int) -> None:
    """Compare texts a second of a bundle with those of the checkpoint in a transformers pipeline at batch 32."""
    texts = [row["text"] for _, row in read_rows(data)]
    pipe = pipeline(checkpoint)
    rates: dict[str, list[float]] = {"transformers pipeline": [], "burnish predict": []}
    same = 0
    for _ in range(rounds):
        started = time.perf_counter()
        labels = [answer["label"] for answer in pipe(texts, batch_size=BATCH)]
        rates["transformers pipeline"].append(len(texts) / (time.perf_counter() - started))
        rate, ours = predict(bundle, data)
        rates["burnish predict"].append(rate)
        same = sum(a == b for a, b in zip(labels, ours, strict=True))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    for name, values in rates.items():
        print(f"{name:<24}{medians[name]:>10,.0f} texts/s   ({min(values):,.0f} to {max(values):,.0f})")
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio {statistics.median(ratios):.2f} ({spread}); {same} of {len(texts)} labels equal")
    about = {"rows": len(texts), "equal": same, "machine": machine.description()}
    print(json.dumps({"rates": rates, "ratios": ratios, **about}))


def pipeline(checkpoint: str) -> Any:
    """Return the pipeline of a checkpoint, warmed up; a checkpoint with a head of ours gets that head."""
    import torch
    import transformers

    from burnish_train import checkpoint as checkpoints

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)  # it names all models that it knows but ours
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(machine.num_threads())
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = checkpoints.load_model(Path(checkpoint))
    pipe = transformers.TextClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    pipe(["warm up"] * BATCH, batch_size=BATCH)
    return pipe


def predict(bundle: str, data: str) -> tuple[float, list[str]]:
    """Return (texts a second, labels) of one `burnish predict` in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.jsonl"
        command = [Path(sys.executable).with_name("burnish"), "predict", bundle, data, "--out", out, "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        labels = [json.loads(line)["answer"]["label"] for line in out.read_text(encoding="utf-8").splitlines()]
    return json.loads(done.stdout)["rows_per_second"], labels


if __name__ == "__main__":
    main()
