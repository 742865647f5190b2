"""Two processes that learn together, as torchrun starts them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import transformers

from burnish_train import train
from tiny_model import labelled_rows, make_encoder, write_rows
from training import furthest_apart, record_of

# 99 rows are left to train on: the last step of an epoch has three, two for one process and one for the other.
TOGETHER = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
CHANGES = {"num_train_epochs": 2.0, "pooling": "mean", "dev_fraction": 0.175, "adversarial_epsilon": 0.3}
SEEN = """
import json, os, sys
from burnish_serve.cli import main
from burnish_train import order

batches = order.EpochBatches.__iter__
def kept(self):
    for batch in batches(self):
        with open(os.environ["SEEN"] + os.environ["RANK"], "a") as file:
            file.write(json.dumps(batch) + chr(10))
        yield batch
order.EpochBatches.__iter__ = kept
main()
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory, tiny_settings, environment):
    """Return (folder of a run of two processes, rows that each saw, its output): four rows a step each, no dropout."""
    folder = tmp_path_factory.mktemp("both")
    make_encoder(folder / "encoder", dropout=0.0)
    script = folder / "burnish.py"
    script.write_text(SEEN)
    settings = {**tiny_settings, **CHANGES, "model": str(folder / "encoder"), "per_device_train_batch_size": 4}
    flags = [part for key, value in settings.items() for part in ("--" + key.replace("_", "-"), str(value))]
    started = subprocess.run(
        [
            *TOGETHER,
            *(str(script), "train", *flags, "--out", str(folder / "run"), "--json"),
        ],
        env={**environment, "SEEN": str(folder / "seen-"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert started.returncode == 0, started.stderr
    seen = [
        [json.loads(line) for line in (folder / f"seen-{process}").read_text().splitlines()] for process in range(2)
    ]
    return folder, seen, started


def test_each_row_is_seen_once_an_epoch(both):
    _, seen, _ = both
    assert [len(batches) for batches in seen] == [26, 26]
    for epoch in range(2):
        rows = [row for batches in seen for batch in batches[13 * epoch : 13 * (epoch + 1)] for row in batch]
        assert sorted(rows) == list(range(99))


def test_two_processes_learn_what_one_learns(both, tiny_settings, tmp_path):
    from burnish_train import TrainConfig
    from tiny_model import on_one_thread

    with on_one_thread():
        model = str(both[0] / "encoder")
        train(TrainConfig(**{**tiny_settings, **CHANGES, "model": model, "out": tmp_path / "one"}))
    together, alone = record_of(both[0] / "run"), record_of(tmp_path / "one")
    assert together["steps"] == alone["steps"] == 26
    assert together["processes"] == 2
    assert together["metrics"]["dev"]["accuracy"] == alone["metrics"]["dev"]["accuracy"]
    assert furthest_apart(both[0] / "run", tmp_path / "one") < 1e-4, "sums in another order, and nothing else"


def test_one_speaks_for_both(both):
    _, _, started = both
    assert len(started.stdout.splitlines()) == 1
    assert json.loads(started.stdout)["processes"] == 2
    assert started.stderr.count("2 processes") == 1


def test_two_processes_guess_hidden_words(tmp_path, command, environment):
    write_rows(tmp_path / "texts.jsonl", labelled_rows(100))
    flags = [
        "--size",
        "tiny",
        "--vocab-size",
        "100",
        "--max-length",
        "16",
        "--num-train-epochs",
        "2",
        "--device",
        "cpu",
    ]
    ways = ["--train", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path / "encoder"), "--json"]
    started = subprocess.run(
        [*TOGETHER, command, "pretrain", *flags, *ways],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["processes"] == 2
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "encoder")
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
