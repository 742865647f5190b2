"""Ten labelled rows a label: the recipe for few labels against plain fine-tuning that a search has tuned.

Of a file of labelled rows some are drawn as train and dev, the same number of each label; the others become texts whose
labels are thrown away. Plain fine-tuning gets the settings that `burnish search` finds best on the dev rows. The recipe
for few labels has a first run of ``intent.toml`` as its teacher, as its page says, and the texts. Both are trained with
each seed on the same rows and scored on the test rows, which nothing was chosen on. What is whole is not done again.

>>> # python bench/few_labels.py ENCODER banking77/train.jsonl banking77/test.jsonl --work runs/few
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from started import BURNISH

RECIPES = Path("train/recipes")
SEARCH = """task = "text-classification"
pooling = "mean"
max_length = 128
early_stopping_patience = 0

[search]
learning_rate = {low = 5e-5, high = 1e-3, log = true}
num_train_epochs = [5, 10, 20]
per_device_train_batch_size = [16, 32, 64]
label_smoothing_factor = {low = 0.0, high = 0.2}
warmup_ratio = {low = 0.0, high = 0.2}
"""
"""The recipe of ``search-intent.toml`` with more epochs, since the rows are few."""


@click.command()
@click.argument("encoder")
@click.argument("train")
@click.argument("test")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/few"))
@click.option("--rows", default=10, help="labelled rows of each label")
@click.option("--dev-rows", default=5, help="dev rows of each label")
@click.option("--trials", default=12)
@click.option("--draw", default=1, help="seed of which rows are drawn")
@click.option("--seed", "seeds", multiple=True, type=int, default=(1, 2, 3))
def main(
    encoder: str, train: str, test: str, work: Path, rows: int, dev_rows: int, trials: int, draw: int, seeds: Any
) -> None:
    """Train both ways, and print one JSON line."""
    work.mkdir(parents=True, exist_ok=True)
    about = {"encoder": encoder, "train": train, "rows": rows, "dev_rows": dev_rows, "trials": trials, "draw": draw}
    kept = work / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != about:
        raise click.ClickException(f"{work} holds runs of {kept.read_text(encoding='utf-8')}: give another --work")
    kept.write_text(json.dumps(about), encoding="utf-8")
    drawn = cut(train, work, rows, dev_rows, draw)
    data = ["--model", encoder, "--train", work / "few.jsonl", "--dev", work / "dev.jsonl"]
    (work / "search.toml").write_text(SEARCH, encoding="utf-8")
    again = ["--resume"] if (work / "search").exists() else []
    if not (work / "search" / "best.toml").exists():
        told = ["--trials", trials, "--pruner", "none", "--seed", 1, *again]
        run("search", work / "search.toml", *data, "--out", work / "search", *told)
    found: dict[str, Any] = {"rows": drawn, "best": (work / "search" / "best.toml").read_text(encoding="utf-8")}
    for name in ("plain", "first", "few"):
        found[name] = []
    for seed in seeds:
        own = [*data, "--seed", seed]
        plain, first, few = (work / f"{name}-{seed}" for name in ("plain", "first", "few"))
        guessed = ["--teacher", first, "--unlabelled", work / "texts.jsonl"]
        for out, recipe, more in (
            (plain, work / "search" / "best.toml", []),
            (first, RECIPES / "intent.toml", []),
            (few, RECIPES / "few-labels.toml", guessed),
        ):
            if not out.exists():
                run("train", recipe, *own, *more, "--out", out, "--resume")
            record = json.loads((out / "burnish.json").read_text(encoding="utf-8"))
            scored = run("evaluate", out, "--data", test)["metrics"]["accuracy"]
            name = out.name.split("-")[0]
            found[name].append({"dev": record["metrics"]["dev"]["accuracy"], "test": scored, "s": record["seconds"]})
            print(name, seed, found[name][-1], file=sys.stderr)
    for split in ("dev", "test"):
        means = {name: statistics.mean(one[split] for one in found[name]) for name in ("plain", "first", "few")}
        found[f"mean {split}"] = {**means, "better": means["few"] - means["plain"]}
    print(json.dumps(found))


def cut(path: str, work: Path, rows: int, dev_rows: int, seed: int) -> dict[str, int]:
    """Write rows with labels, dev rows, and texts without labels; return how many of each."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    seen: dict[str, int] = defaultdict(int)
    parts: dict[str, list[dict[str, str]]] = {"few": [], "dev": [], "texts": []}
    for place in np.random.default_rng(seed).permutation(len(lines)):
        row = lines[place]
        number = seen[row["label"]]
        seen[row["label"]] += 1
        if number < rows + dev_rows:
            parts["few" if number < rows else "dev"].append(row)
        else:
            parts["texts"].append({"text": row["text"]})
    for name, some in parts.items():
        written = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in some)
        (work / f"{name}.jsonl").write_text(written, encoding="utf-8")
    return {name: len(some) for name, some in parts.items()}


def run(*arguments: Any) -> Any:
    """Run the command, and return what it found."""
    call = [str(part) for part in (BURNISH, *arguments, "--json")]
    return json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
