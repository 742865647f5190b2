"""How long until a dev accuracy is reached: `burnish train` against transformers' Trainer with its defaults.

Both have the same encoder, rows, batch size and threads, and are scored on the same dev rows after each epoch. The
Trainer has dynamic padding, float32, a rate of 5e-5 that falls over the epochs that it is given, and the encoder's own
head; it is stopped at the first epoch that reaches the score. Burnish has the recipe. Imports are not counted, reading
rows and scoring is. The two take turns, or each has a core of its own with ``--side``. The Trainer is given up where it
has not reached the score in ``--limit`` seconds; each score is told when it is known.

>>> # python bench/time_to_score.py ENCODER train.jsonl --score 0.91
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

RECIPE = "train/recipes/intent.toml"


@click.command()
@click.argument("encoder")
@click.argument("data")
@click.option("--score", default=0.91, help="dev accuracy to reach")
@click.option("--epochs", default=30, help="that the Trainer is given at the most")
@click.option("--seed", default=1)
@click.option("--threads", default=2)
@click.option("--recipe", default=RECIPE)
@click.option("--limit", default=3600.0, help="seconds after which the Trainer is given up")
@click.option("--side", type=click.Choice(["burnish", "transformers"]), help="one of the two alone")
def main(side: str | None, **given: Any) -> None:
    """Measure both in processes of their own, one after the other, and print one JSON line."""
    if side:
        print(json.dumps(SIDES[side](**given)))
        return
    flags = [part for key, value in given.items() if key not in ("encoder", "data") for part in (f"--{key}", value)]
    found = {}
    for name in SIDES:
        call = [sys.executable, __file__, given["encoder"], given["data"], *flags, "--side", name]
        done = subprocess.run([str(part) for part in call], check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], file=sys.stderr)
    found["ratio"] = found["burnish"]["seconds"] / found["transformers"]["seconds"]
    print(json.dumps(found))


def burnish(encoder: str, data: str, score: float, seed: int, threads: int, recipe: str, **_: Any) -> Any:
    """Return seconds and epochs until `burnish train` reaches the score."""
    import torch
    import transformers

    from burnish_train.config import read_recipe
    from burnish_train.fit import train

    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    reached: list[dict[str, float]] = []
    began = time.perf_counter()

    class Watch(transformers.TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            value = metrics["eval_accuracy"]
            _note(reached, time.perf_counter() - began, value, state.epoch)
            if value >= score:
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as folder:
        config = read_recipe(Path(recipe), model=encoder, train=data, seed=seed, out=Path(folder) / "run")
        train(config, callbacks=[Watch()])
    return _found(reached, score)


def transformers_trainer(
    encoder: str, data: str, score: float, epochs: int, seed: int, threads: int, recipe: str, limit: float
) -> Any:
    """Return seconds and epochs until transformers' Trainer reaches the score."""
    import torch
    import transformers

    from burnish_train.config import read_recipe
    from burnish_train.data import read_splits

    torch.set_num_threads(threads)
    began = time.perf_counter()
    config = read_recipe(Path(recipe), model=encoder, train=data, seed=seed, out=Path("unused"))
    splits = read_splits(config)  # the very same dev rows
    names = {name: number for number, name in enumerate(splits.names)}
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(names))

    def items(rows: Any) -> list[dict[str, Any]]:
        read = tokenizer([row.texts[0] for row in rows], truncation=True, max_length=config.max_length)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": names[row.right]}
            for ids, mask, row in zip(read["input_ids"], read["attention_mask"], rows, strict=True)
        ]

    reached: list[dict[str, float]] = []

    class Watch(transformers.TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            value = float(metrics["eval_accuracy"])
            _note(reached, time.perf_counter() - began, value, state.epoch)
            if value >= score or time.perf_counter() - began > limit:
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=config.per_device_train_batch_size,
            eval_strategy="epoch",
            save_strategy="no",
            seed=seed,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        transformers.Trainer(
            model,
            arguments,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            train_dataset=items(splits.train),
            eval_dataset=items(splits.dev),
            compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()},
            callbacks=[Watch()],
        ).train()
    return _found(reached, score)


def _note(reached: list[dict[str, float]], seconds: float, accuracy: float, epoch: float) -> None:
    reached.append({"seconds": round(seconds, 1), "accuracy": accuracy, "epoch": epoch})
    print(reached[-1], file=sys.stderr, flush=True)


def _found(reached: list[dict[str, float]], score: float) -> dict[str, Any]:
    last = reached[-1]
    return {**last, "reached": last["accuracy"] >= score, "epochs": reached}


SIDES = {"burnish": burnish, "transformers": transformers_trainer}

if __name__ == "__main__":
    main()
