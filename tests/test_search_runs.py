"""A search that trains: killed and gone on with, and what it leaves behind.

pytest tests/test_search_runs.py
"""

from __future__ import annotations

import contextlib
import csv
import gc
import json
import multiprocessing
import random
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner

from burnish_serve.cli import main
from burnish_train import TrainConfig, result, train
from burnish_train.choose.config import SearchConfig
from burnish_train.choose.search import search
from burnish_train.config import read_recipe
from tiny_model import on_one_thread
from training import begun_before, found_in, furthest_apart, record_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")

REAL = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "num_train_epochs": [1, 2],
    "per_device_train_batch_size": [8, 16],
    "label_smoothing_factor": {"low": 0.0, "high": 0.2},
}
SETTINGS = SearchConfig(trials=12)


@contextlib.contextmanager
def lightly() -> Iterator[None]:
    """Leave out what takes most of a tiny trial's time: its picture, and garbage sought among PyTorch's own objects."""
    gc.freeze()
    with mock.patch.object(result.curve, "draw"):
        yield
    gc.unfreeze()


def real(tiny_settings: dict, out: Path) -> TrainConfig:
    return TrainConfig(**{**tiny_settings, "out": out, "save_steps": 8})


@pytest.fixture(scope="module")
def whole(tiny_settings, tmp_path_factory) -> tuple[Path, dict]:
    """Return the folder of a search that nothing interrupted, and what it returned."""
    out = tmp_path_factory.mktemp("search") / "whole"
    with on_one_thread(), lightly():
        return out, search(real(tiny_settings, out), SETTINGS, REAL)


def search_in_a_process(config: TrainConfig, log: Path) -> None:
    with on_one_thread(), lightly(), log.open("a", buffering=1) as file:
        search(config, SETTINGS, REAL, resume=True, log=lambda line: print(line, file=file))


@pytest.fixture(scope="module")
def processes():
    """Return what starts processes that have PyTorch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["burnish_train.choose.search", "tiny_model"])
    return context


def test_a_killed_process_loses_no_trial_and_runs_none_twice(processes, tiny_settings, whole, tmp_path):
    out, log = tmp_path / "killed", tmp_path / "log.txt"
    chance = random.Random(7)
    for number in sorted(chance.sample(range(12), 3)):
        process = processes.Process(target=search_in_a_process, args=(real(tiny_settings, out), log))
        process.start()
        end = time.monotonic() + 120
        while not any(int(path.name.split(".")[0]) >= number for path in out.glob("trials/*")):
            assert process.is_alive()
            assert time.monotonic() < end
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -9
        process.close()
    told = []
    with lightly():
        found = search(real(tiny_settings, out), SETTINGS, REAL, resume=True, log=told.append)
    assert found_in(found) == found_in(whole[1])
    assert furthest_apart(out / "best", whole[0] / "best") == 0
    lines = log.read_text().splitlines() + told
    begun = [line.split()[1] for line in lines if line.startswith("trial") and " of 12: " in line]
    ended = [line.split()[1] for line in lines if line.startswith("trial") and " of 12: " not in line]
    assert len(set(ended)) == len(ended)
    assert sorted(set(begun), key=int) == [str(number) for number in range(12)]
    assert len(begun) <= 12 + 3, "a trial was begun again that no kill had ended"


def test_the_best_is_a_recipe_that_trains_it_again(whole, tiny_settings, tmp_path):
    out, found = whole
    keys = tomllib.loads((out / "best.toml").read_text(encoding="utf-8"))
    assert not {"model", "train", "dev", "test", "out", "device"} & set(keys)
    assert found["best"]["parameters"].items() <= keys.items()
    assert keys["max_length"] == tiny_settings["max_length"], "what was not searched"
    given = {key: tiny_settings[key] for key in ("model", "train", "device")}
    record = train(read_recipe(out / "best.toml", out=tmp_path / "again", **given))
    assert record["metrics"]["dev"]["accuracy"] == found["best"]["score"] > 0.6
    assert furthest_apart(tmp_path / "again", out / "best") == 0


def test_all_trials_are_scored_on_the_same_rows_and_the_best_is_the_best(whole):
    out, found = whole
    assert rows_of(out / "trials.jsonl") == found["trials"]
    with (out / "trials.csv").open(encoding="utf-8", newline="") as file:
        flat = list(csv.DictReader(file))
    assert [float(row["score"]) for row in flat] == [row["score"] for row in found["trials"]]
    assert [float(row["learning_rate"]) for row in flat] == [
        row["parameters"]["learning_rate"] for row in found["trials"]
    ]
    done = [row for row in found["trials"] if row["state"] == "done"]
    assert found["best"] == found["trials"][0] == max(done, key=lambda row: (row["score"], -row["number"]))
    record = record_of(out / "best")
    assert record["metrics"] == {"dev": record["metrics"]["dev"]}, "test rows choose nothing"
    assert record["metrics"]["dev"]["accuracy"] == found["best"]["score"]
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG")
    assert not list((out / "trials").iterdir())


def test_a_trials_seconds_are_those_of_all_starts(tiny_settings, tmp_path, monkeypatch):
    config = real(tiny_settings, tmp_path / "search")
    monkeypatch.setattr("optuna.Trial.should_prune", lambda trial: trial.number == 1)

    def killed(own, **_):
        begun_before(own.out, 1000.0)
        raise KeyboardInterrupt

    for number in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("burnish_train.choose.search.fit.train", killed)
            with pytest.raises(KeyboardInterrupt):
                search(config, SearchConfig(trials=number + 1), REAL, resume=True)
        found = search(config, SearchConfig(trials=number + 1), REAL, resume=True)["trials"]
    assert [row["state"] for row in found] == ["done", "pruned"]
    assert all(1000 < row["seconds"] < 2000 for row in found)


def test_the_command(tiny_settings, tmp_path):
    recipe, out = tmp_path / "a.toml", tmp_path / "s"
    recipe.write_text(
        "per_device_train_batch_size = 16\nmax_length = 16\ntest = 'no.jsonl'\n[search]\nnum_train_epochs = [1, 2]\n"
    )
    given = [part for key in ("model", "train", "device") for part in (f"--{key}", tiny_settings[key])]
    words = ["search", str(recipe), *given, "--out", str(out), "--sampler", "grid", "--keep-all"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["trial", "state", "accuracy", "seconds", "num_train_epochs"]
    assert lines[3].startswith("best is trial ")
    assert lines[4] == f"next: burnish export {out}/best --out {out}/best-bundle"
    assert {path.name for path in (out / "trials").iterdir()} == {"0", "1"}
    assert [record_of(out / "trials" / name)["seed"] for name in "01"] == [42, 42]
    dev = {(out / name / "dev.jsonl").read_bytes() for name in ("trials/0", "trials/1", "best")}
    assert len(dev) == 1
    assert "\ntrial 1 of 2: num_train_epochs " in result.stderr
    result = CliRunner().invoke(main, [*words, "--json"])
    assert (result.exit_code, "holds a search" in json.loads(result.stdout)["error"]) == (1, True)
    result = CliRunner().invoke(main, [*words, "--resume", "--json"])
    assert len(json.loads(result.stdout)["trials"]) == 2
    assert result.stderr.splitlines()[-1] == "2 of 2 trials are finished"
