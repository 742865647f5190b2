"""A search, with a formula in the place of training: what it tries, what it prunes, and that no kill loses a trial.

The kills of a real process, which trains for real, are in test_search_runs.py.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from types import SimpleNamespace
from unittest import mock

import optuna
import pytest

from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, checkpoint, fit
from burnish_train.choose import folder, results
from burnish_train.choose import search as module
from burnish_train.choose.config import SearchConfig
from burnish_train.choose.folder import held
from burnish_train.choose.search import search
from burnish_train.choose.study import opened
from burnish_train.faults import UnfitError
from training import found_in, record_of

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


def test_trials_learn_in_one_precision_and_the_recipe_leaves_it_open(train_config, stand_in, tmp_path, monkeypatch):
    faster = iter([True, False, False])
    monkeypatch.setattr("burnish_train.device._bf16_is_faster", lambda *, cuda: next(faster))
    stand_in(Kills())
    config = train_config(out=tmp_path / "search", precision="auto", num_train_epochs=2.0)
    search(config, SearchConfig(trials=3, keep_all=True))
    records = [checkpoint.read_record(path) for path in (tmp_path / "search" / "trials").iterdir()]
    assert [record["settings"]["precision"] for record in records] == ["bf16"] * 3
    assert "precision" not in (tmp_path / "search" / "best.toml").read_text()


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
            raise UnfitError("out of memory")
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


def test_a_study_that_was_killed_while_it_was_made_is_made(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(optuna, "create_study", mock.Mock(side_effect=Killed))
        with pytest.raises(Killed), opened(tmp_path / "study.db"):
            pass
    with opened(tmp_path / "study.db") as study:
        assert study.trials == []
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_what_optuna_says_is_silenced_for_a_search_alone(tmp_path):
    before = optuna.logging.get_verbosity()
    with opened(tmp_path / "a ?{b}.db"):
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    assert optuna.logging.get_verbosity() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a ?{b}.db"]
