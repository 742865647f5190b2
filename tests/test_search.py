"""A search of settings: what it draws from, what it keeps, and that a kill at any moment loses no trial.

Most of it is shown with a stand-in for training, whose score is a formula; the kills of a real process train for real.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import json
import math
import multiprocessing
import random
import statistics
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import optuna
import pytest
from click.testing import CliRunner

from burnish_serve.cli import main
from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, checkpoint, fit, train
from burnish_train.choose import folder, results
from burnish_train.choose import search as module
from burnish_train.choose.config import SearchConfig
from burnish_train.choose.folder import held
from burnish_train.choose.search import search
from burnish_train.choose.space import grid, read_table, space
from burnish_train.choose.study import opened
from burnish_train.config import read_recipe
from tiny_model import on_one_thread
from training import furthest_apart, record_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")

TABLE = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "num_train_epochs": [2.0, 3.0, 5.0],
    "warmup_ratio": {"low": 0.0, "high": 0.3},
    "per_device_train_batch_size": {"low": 8, "high": 32, "step": 8},
}
POINTS = {"learning_rate": [1e-4, 3e-4, 1e-3], "num_train_epochs": [2, 5], "class_weights": ["none", "sqrt"]}


class Killed(BaseException):
    """What stands for a kill: nothing catches it."""


class Kills:
    """Kills at every so many moments of a search."""

    def __init__(self, every: int | None = None) -> None:
        self.every = every
        self.passed = 0

    def moment(self) -> None:
        self.passed += 1
        if self.every and self.passed % self.every == 0:
            raise Killed


def formula(config: TrainConfig, epoch: int) -> float:
    """Return the dev score after an epoch: best at a rate of 3e-4, and the better the longer."""
    off = math.log10(config.learning_rate / 3e-4)
    return (0.95 - 0.1 * off**2 - config.warmup_ratio / 10) * (1 - 0.4**epoch)


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function that puts a formula in the place of training, and kills around all that a search does."""

    def put(kills: Kills) -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []

        def run(config: TrainConfig, *, resume: bool, callbacks: list) -> dict:
            assert resume
            work = config.out.with_name(config.out.name + ".partial")
            work.mkdir(parents=True, exist_ok=True)
            state = work / "state.json"
            history = json.loads(state.read_text()) if state.exists() else []
            kills.moment()
            for epoch in range(len(history) + 1, int(config.num_train_epochs) + 1):
                done.append((int(config.out.name), epoch))
                history.append({"step": epoch, "eval_loss": 1.0, "eval_accuracy": formula(config, epoch)})
                kills.moment()
                for callback in callbacks:
                    callback.on_evaluate(None, SimpleNamespace(log_history=history), None)
                state.write_text(json.dumps(history))
                kills.moment()
            score = history[-1]["eval_accuracy"]
            metrics = {"dev": {"accuracy": score}}
            record = {"settings": to_dict(config), "metrics": metrics, "curve": history, "seconds": 1.0}
            (work / checkpoint.RECORD).write_text(json.dumps(record))
            state.unlink()
            work.rename(config.out)
            kills.moment()
            return record

        def around(place, name):
            own = getattr(place, name)

            def wrapped(*args, **kwargs):
                kills.moment()
                found = own(*args, **kwargs)
                kills.moment()
                return found

            monkeypatch.setattr(place, name, wrapped)

        monkeypatch.setattr(fit, "train", run)
        monkeypatch.setattr(results, "draw", lambda *_: None)  # seen in the tests that train
        for name in ("finish", "tidy", "keep_best", "suggest"):
            around(module, name)
        for place, name in ((folder.shutil, "rmtree"), (results, "write"), (results, "draw"), (optuna, "create_study")):
            around(place, name)
        return done

    return put


def found_in(result: dict) -> list[dict]:
    return [{**row, "seconds": None} for row in result["trials"]]


@pytest.mark.parametrize(
    ("sampler", "pruner", "table"),
    [
        pytest.param("tpe", "median", TABLE, id="tpe, median"),
        pytest.param("tpe", "hyperband", TABLE, id="tpe, hyperband"),
        pytest.param("grid", "none", POINTS, id="grid"),
    ],
)
def test_a_search_killed_at_every_few_moments_finds_what_a_whole_one_does(
    train_config, stand_in, tmp_path, sampler, pruner, table
):
    settings = SearchConfig(trials=12, sampler=sampler, pruner=pruner)
    kills = Kills()
    done = stand_in(kills)
    whole = search(train_config(out=tmp_path / "whole"), settings, table)
    epochs = sorted(done)
    states = [row["state"] for row in whole["trials"]]
    assert len(states) == 12
    assert ("pruned" in states) == (pruner != "none")
    assert kills.passed > 100
    times, config = 0, train_config(out=tmp_path / "killed")
    done.clear()
    for every in random.Random(1).choices(range(11, 29), k=100):
        kills.every, kills.passed = every, 0
        try:
            found = search(config, settings, table, resume=True)
            break
        except Killed:
            times += 1
    assert times >= 6
    assert found_in(found) == found_in(whole)
    assert [row["number"] for row in sorted(found["trials"], key=lambda row: row["number"])] == list(range(12))
    assert sorted(set(done)) == epochs, "a trial ran that a whole search has not, or longer"
    assert len(done) - len(epochs) <= times, "more than the epoch of the kill was done again"
    assert sorted(path.name for path in config.out.iterdir() if path.name[0] != ".") == [
        *("best", "best.toml", "search.json", "study.db", "trials", "trials.csv", "trials.jsonl")
    ]
    assert not list((config.out / "trials").iterdir())
    assert folder.number_of(config.out / "best") == whole["best"]["number"]


def test_the_median_pruner_ends_what_stays_below_the_median(train_config, stand_in, tmp_path):
    stand_in(Kills())
    table = {**TABLE, "num_train_epochs": [4.0]}
    found = search(train_config(out=tmp_path / "s"), SearchConfig(trials=16, sampler="random"), table)
    with opened(tmp_path / "s" / "study.db") as study:
        trials = study.trials
    ended = 0
    for trial in trials:
        own = train_config(**trial.params)
        before = [one for one in trials[: trial.number] if one.state.name == "COMPLETE"]
        wanted = 4
        for epoch in range(1, 5):
            assert epoch not in trial.intermediate_values or trial.intermediate_values[epoch] == formula(own, epoch)
            scores = [one.intermediate_values[epoch] for one in before]
            if len(before) >= 5 and formula(own, epoch) < statistics.median(scores):
                wanted = epoch
                break
        assert len(trial.intermediate_values) == wanted
        pruned = trial.state.name == "PRUNED"
        assert pruned or wanted == 4
        ended += pruned
    assert ended == sum(row["state"] == "pruned" for row in found["trials"]) > 3


def test_tpe_learns_from_the_scores(train_config, stand_in, tmp_path):
    stand_in(Kills())
    off = {}
    for sampler in ("tpe", "random"):
        settings = SearchConfig(trials=24, sampler=sampler, pruner="none")
        found = search(train_config(out=tmp_path / sampler), settings, TABLE)
        late = [row["parameters"]["learning_rate"] for row in found["trials"] if row["number"] >= 10]
        off[sampler] = statistics.median(abs(math.log10(rate / 3e-4)) for rate in late)
    assert off["tpe"] < 0.6 * off["random"]


def test_another_seed_tries_other_settings(train_config, stand_in, tmp_path):
    stand_in(Kills())
    drawn = []
    for seed in (1, 2):
        config = train_config(out=tmp_path / str(seed), seed=seed)
        drawn += [row["parameters"]["learning_rate"] for row in search(config, SearchConfig(trials=4), TABLE)["trials"]]
    assert len(set(drawn)) == 8


def test_a_grid_tries_each_point_once_and_no_more(train_config, stand_in, tmp_path):
    stand_in(Kills())
    told = []
    settings = SearchConfig(trials=50, sampler="grid", pruner="none")
    found = search(train_config(out=tmp_path / "s"), settings, POINTS, log=told.append)
    assert told[0] == "the grid has 12 points, and 12 are tried"
    points = [tuple(row["parameters"].values()) for row in found["trials"]]
    assert len(points) == len(set(points)) == 12
    stepped = space(
        {"warmup_ratio": {"low": 0.0, "high": 0.35, "step": 0.1}, "max_length": {"low": 8, "high": 16}}, train_config()
    )
    assert grid(stepped) == {"max_length": list(range(8, 17)), "warmup_ratio": pytest.approx([0.0, 0.1, 0.2, 0.3])}
    with pytest.raises(InputError, match="a grid needs lists, or ranges with a step; give them for learning_rate"):
        search(train_config(out=tmp_path / "t"), settings, TABLE)
    assert not (tmp_path / "t").exists()


def test_a_finished_search_goes_on_with_more_trials(train_config, stand_in, tmp_path):
    done = stand_in(Kills())
    config, whole = (train_config(out=tmp_path / name, seed=3) for name in ("s", "whole"))
    settings = {"sampler": "random", "pruner": "none"}
    first = search(config, SearchConfig(trials=3, **settings), TABLE)
    before = len(done)
    again = search(config, SearchConfig(trials=3, **settings), TABLE, resume=True)
    assert (len(done), found_in(again)) == (before, found_in(first))
    more = search(config, SearchConfig(trials=9, **settings), TABLE, resume=True)
    assert found_in(more) == found_in(search(whole, SearchConfig(trials=9, **settings), TABLE))
    assert more["best"]["number"] > 2, "a seed whose best comes late, or the test shows less"
    assert folder.number_of(config.out / "best") == more["best"]["number"]


def test_settings_that_do_not_go_together_and_scores_that_are_none_fail_alone(
    train_config, stand_in, monkeypatch, tmp_path
):
    stand_in(Kills())
    own = fit.train

    def run(config, **rest):
        if config.num_train_epochs == 5:
            raise MemoryError
        record = own(config, **rest)
        if config.num_train_epochs == 3:
            record["metrics"]["dev"]["accuracy"] = math.nan
        return record

    monkeypatch.setattr(fit, "train", run)
    config, settings = train_config(out=tmp_path / "s"), SearchConfig(sampler="grid")
    found = search(config, settings, {"num_train_epochs": [2, 3, 5]})
    assert [(row["state"], row["score"]) for row in found["trials"]] == [
        ("done", pytest.approx(formula(train_config(), 2))), ("failed", None), ("failed", None),
    ]  # fmt: skip
    assert {row["error"] for row in found["trials"]} == {None, "out of memory"}
    assert "failed" in results.table(found["trials"], "accuracy")
    with pytest.raises(InputError, match="none of 1 trials came to its end: out of memory"):
        search(train_config(out=tmp_path / "t"), settings, {"num_train_epochs": [5]})


def test_time_that_is_over_starts_no_trial(train_config, stand_in, tmp_path, monkeypatch):
    stand_in(Kills())
    clock = iter(range(0, 100000, 50))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    told = []
    config = train_config(out=tmp_path / "s")
    found = search(config, SearchConfig(trials=12, search_minutes=2.0), TABLE, log=told.append)
    assert len(found["trials"]) == 2
    assert "2 minutes are over; --resume goes on" in told
    assert len(search(config, SearchConfig(trials=4), TABLE, resume=True)["trials"]) == 4


WRONG = {
    "learning_rat": [1e-4],
    "train": ["a.jsonl"],
    "num_train_epochs": [0, 3],
    "learning_rate": {"low": 1e-3, "high": 1e-5},
    "warmup_ratio": {"low": 0.1, "high": 1.0},
    "weight_decay": {"low": 0.0, "high": 0.1, "log": True},
    "per_device_train_batch_size": {"low": 8, "high": 32, "step": 0.5},
    "max_length": {"low": 8.5, "high": 32},
    "label_smoothing_factor": 0.1,
    "class_weights": ["none", "square"],
    "pooling": {"low": 1, "high": 2},
    "max_grad_norm": [],
    "word_dropout": {"most": 0.3},
    "tag_scheme": ["BIO", "BIOES"],
}


def test_all_that_is_wrong_with_a_space_is_said_at_once(train_config):
    with pytest.raises(InputError) as caught:
        space(WRONG, train_config(), "a.toml")
    said = str(caught.value).split("; ")
    assert said[0].startswith("a.toml: [search] has no use for 'learning_rat', 'train' (it may have: ")
    assert " seed," not in said[0]
    assert said[1:] == [
        "[search] class_weights must be one of none, balanced, sqrt, not 'square'",
        "[search] label_smoothing_factor must be a list, or a table of low and high, and log or step, not 0.1",
        "[search] learning_rate: low must be below high, not 0.001 and 1e-05",
        "[search] max_grad_norm must be a list of different single values, not []",
        "[search] max_length must be a whole number, not 8.5",
        "[search] num_train_epochs must be at least 0.001, not 0.0",
        "[search] per_device_train_batch_size: step must be a whole number from 1 to high - low, not 0.5",
        "[search] pooling must be text, not 1",
        "[search] pooling must be text, not 2",
        "[search] tag_scheme 'BIOES' is for token-classification, not text-classification",
        "[search] warmup_ratio must be below 1, not 1.0",
        "[search] weight_decay: a range with log begins above 0 and has no step",
        "[search] word_dropout must be a list, or a table of low and high, and log or step, not {'most': 0.3}",
    ]
    with pytest.raises(InputError, match=r"\[search\] names no setting"):
        space({}, train_config())


def test_the_space_where_none_is_given(train_config):
    plain = space(None, train_config())
    assert sorted(plain) == [
        *("label_smoothing_factor", "learning_rate", "num_train_epochs", "per_device_train_batch_size", "warmup_ratio")
    ]
    assert plain["learning_rate"].log
    assert "label_smoothing_factor" not in space(None, train_config(task="regression"))
    assert "label_smoothing_factor" in space(None, train_config(task="token-classification"))


def test_the_recipe_of_the_page_has_a_space(tmp_path, train_config):
    page = (Path(__file__).parents[1] / "docs" / "search.md").read_text(encoding="utf-8")
    (tmp_path / "a.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert len(space(read_table(tmp_path / "a.toml"), train_config())) == 4


def test_a_recipe_with_a_space_is_a_recipe_of_train(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('learning_rate = 1e-4\n[search]\nlearning_rate = [1e-4, "what train never looks at"]\n')
    assert read_recipe(path, model="m", train="t", out="o").learning_rate == 1e-4
    path.write_text("search = 3\n")
    with pytest.raises(InputError, match="unknown key 'search'"):
        read_recipe(path, model="m", train="t", out="o")


def test_what_stands_in_the_way_is_said_and_kept(train_config, stand_in, tmp_path):
    stand_in(Kills())
    out, settings = tmp_path / "s", SearchConfig(trials=2)
    config = train_config(out=out)
    with held(out, {}, resume=False, overwrite=False), pytest.raises(InputError, match="another search is running in"):
        search(config, settings, TABLE, resume=True)
    (out / "search.json").unlink()
    (out / "mine.txt").write_text("")
    with pytest.raises(InputError, match="exists already and is not a search of burnish"):
        search(config, settings, TABLE, overwrite=True)
    (out / "mine.txt").unlink()
    search(config, settings, TABLE)
    for changes, said in (
        ({}, "holds a search; --resume goes on with it, --overwrite starts again"),
        ({"resume": True, "seed": 1}, "was begun with other settings: seed was 42 and is 1; --overwrite"),
        ({"resume": True, "table": POINTS}, "was begun with other settings: search was"),
        ({"resume": True, "sampler": "random"}, "sampler was 'tpe' and is 'random'"),
        ({"resume": True, "learning_rate": 1.0}, "learning_rate was 0.002 and is 1.0"),
        ({"dev_fraction": 0.0}, "a search compares scores on dev rows, and there are none: give --dev"),
    ):
        table, resume = changes.pop("table", TABLE), changes.pop("resume", False)
        other = SearchConfig(trials=2, sampler=changes.pop("sampler", "tpe"))
        with pytest.raises(InputError, match=said):
            search(train_config(out=out, **changes), other, table, resume=resume)
        assert (out / "best" / "burnish.json").exists()
    search(train_config(out=out, seed=1), settings, TABLE, overwrite=True)
    assert record_of(out / "best")["settings"]["seed"] == 1


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(train_config, tmp_path):
    with pytest.raises(InputError, match="cannot load the model"):
        search(train_config(out=tmp_path / "s", model="nowhere/none"), SearchConfig(), TABLE)
    assert not (tmp_path / "s").exists()


# From here on training is real.
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
    with mock.patch.object(fit.curve, "draw"):
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
    assert "\ntrial 1 of 2: num_train_epochs " in result.stderr
    result = CliRunner().invoke(main, [*words, "--json"])
    assert (result.exit_code, "holds a search" in json.loads(result.stdout)["error"]) == (1, True)
    result = CliRunner().invoke(main, [*words, "--resume", "--json"])
    assert len(json.loads(result.stdout)["trials"]) == 2
    assert result.stderr.splitlines()[-1] == "2 of 2 trials are finished"


def test_what_optuna_says_is_silenced_for_a_search_alone(tmp_path):
    before = optuna.logging.get_verbosity()
    with opened(tmp_path / "a ?{b}.db"):
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    assert optuna.logging.get_verbosity() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a ?{b}.db"]
