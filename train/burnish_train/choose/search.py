"""A search: settings are drawn, a run of training with each is scored on the same dev rows, and the best are kept.

Each trial is a run as ``burnish train`` makes it, in ``OUT/trials/NUMBER``, and can be resumed like one. When it is
whole, or was ended early, it enters the study; only then is its folder cleared away. So a search that is killed at any
moment goes on with the trial that was running, and no trial is lost or run twice.

>>> search(config, SearchConfig(trials=12))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import transformers
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState

from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_serve.tasks import TASKS
from burnish_train import checkpoint, fit
from burnish_train.choose import results
from burnish_train.choose.config import SearchConfig
from burnish_train.choose.folder import BEST, TRIALS, held, keep_best, place, tidy, unfinished
from burnish_train.choose.space import grid, most_epochs, space
from burnish_train.choose.study import best_number, finish, opened, suggest
from burnish_train.config import TrainConfig
from burnish_train.data import Splits, read_splits
from burnish_train.device import with_precision
from burnish_train.faults import UnfitError
from burnish_train.work import seconds_of

NEW = {"out", "device"}  # what a resumed search may have otherwise


def search(
    config: TrainConfig,
    settings: SearchConfig,
    table: Mapping[str, Any] | None = None,
    *,
    source: str = "",
    resume: bool = False,
    overwrite: bool = False,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Try settings of training, and write the best as a recipe and as a checkpoint into ``config.out``.

    Args:
        config: what all trials share; its test rows are not looked at.
        settings: those of the search.
        table: what settings are drawn from, as a recipe's ``[search]`` holds it; None for those that matter most.
        source: the recipe's name, for messages.
        resume: go on with the search in ``config.out``; a new one starts where there is none.
        overwrite: replace it.
        log: called with one line of text for each thing worth telling; None for silence.

    Returns:
        ``metric``, ``trials`` (best first), ``best``, ``recipe`` and ``checkpoint``.

    Raises:
        InputError: space, rows, model or folder cannot be used, or no trial came to its end.
        DeviceError: the device cannot be used.
        BurnishError: a run was interrupted; the message says how to go on.
    """
    say = log or (lambda line: None)
    config = dataclasses.replace(config, test=None)
    drawn = space(table, config, source)
    if settings.sampler == "grid":
        points = math.prod(len(values) for values in grid(drawn).values())
        settings = dataclasses.replace(settings, trials=min(points, settings.trials))
        say(f"the grid has {points} points, and {settings.trials} are tried")
    splits = read_splits(config)
    if not splits.dev:
        raise InputError("a search compares scores on dev rows, and there are none: give --dev, or a --dev-fraction")
    for warning in splits.warnings:
        say(f"warning: {warning}")
    with (
        held(config.out, _about(config, settings, drawn, splits), resume=resume, overwrite=overwrite),
        opened(config.out / "study.db") as study,
    ):
        try:
            _run_all(study, with_precision(config, config.out), settings, drawn, say)
        except InputError:
            if not study.trials and not any(config.out.glob(f"{TRIALS}/*")):  # nothing to go on from
                shutil.rmtree(config.out)
            raise
        return _result(study, config, settings)


def _about(
    config: TrainConfig, settings: SearchConfig, drawn: Mapping[str, BaseDistribution], splits: Splits
) -> dict[str, Any]:
    """Return what decides on a search's trials."""
    return {
        **{key: value for key, value in to_dict(config).items() if key not in NEW},
        **{f"rows of {name}": about.get("sha256") for name, about in splits.sources.items()},
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "search": {name: distribution_to_json(one) for name, one in drawn.items()},
    }


def _run_all(
    study: optuna.Study,
    config: TrainConfig,
    settings: SearchConfig,
    drawn: Mapping[str, BaseDistribution],
    say: Callable[[str], None],
) -> None:
    """Run trials until there are as many as were asked for, or the time is over."""
    started = time.monotonic()
    epochs = most_epochs(drawn, config)
    if study.trials:
        say(f"{len(study.trials)} of {settings.trials} trials are finished")
    while (number := len(study.trials)) < settings.trials:
        _tidy(study, config, settings)
        minutes = (time.monotonic() - started) / 60
        if settings.search_minutes and minutes >= settings.search_minutes:
            say(f"{settings.search_minutes:g} minutes are over; --resume goes on")
            break
        trial = suggest(study, drawn, settings, seed=config.seed, epochs=epochs)
        say(f"trial {number} of {settings.trials}: {results.told(trial.params)}")
        _run(study, trial, config)
        last, best = study.trials[-1], best_number(study)
        score = "no score" if last.value is None else f"{TASKS[config.task].metric} {last.value:.4f}"
        said = f"; best is trial {best}, {study.trials[best].value:.4f}" if best is not None else ""
        say(f"trial {number} {results.STATES[last.state]}: {score}{said}")
    _tidy(study, config, settings)


def _tidy(study: optuna.Study, config: TrainConfig, settings: SearchConfig) -> None:
    finished = len(study.trials)
    best = best_number(study)
    tidy(config.out, finished, range(finished) if settings.keep_all else () if best is None else (best,))


def _run(study: optuna.Study, trial: optuna.Trial, config: TrainConfig) -> None:
    """Run one trial, or what is left of it, and write it into the study."""
    started = time.perf_counter() - seconds_of(unfinished(config.out, trial.number))
    metric = TASKS[config.task].metric
    watch = Watch(trial, metric)
    state, score, about = TrialState.FAIL, None, {}
    try:
        record = _trained(trial, config, watch)
        watch.see(record["curve"])  # of a run that was whole already
        score, about = float(record["metrics"]["dev"][metric]), {"seconds": record["seconds"]}
        state = TrialState.COMPLETE if math.isfinite(score) else TrialState.FAIL
    except optuna.TrialPruned:
        state, score = TrialState.PRUNED, watch.last
    except UnfitError as error:  # these settings' own fault
        about = {"error": str(error).splitlines()[0]}
    about = {"seconds": round(time.perf_counter() - started, 1), **about}
    finish(study, trial, state, None if state == TrialState.FAIL else score, **about)


def _trained(trial: optuna.Trial, config: TrainConfig, watch: Watch) -> dict[str, Any]:
    """Return the record of a trial's run, which may have been begun or even ended before a kill."""
    out = place(config.out, trial.number)
    try:
        own = dataclasses.replace(config, out=out, **trial.params)
    except InputError as error:
        raise UnfitError(str(error)) from error
    if not (out / checkpoint.RECORD).is_file():
        return fit.train(own, resume=True, callbacks=[watch])
    record = checkpoint.read_record(out)
    if any(record["settings"].get(name) != value for name, value in trial.params.items()):
        raise InputError(f"{out} is not the run of trial {trial.number}, which has other settings; --overwrite")
    return record


class Watch(transformers.TrainerCallback):
    """Tells the pruner the dev score after each epoch, and ends a run that is not worth its time.

    The scores are those of Trainer's history, which a resumed run has from its beginning.

    Args:
        trial: the trial.
        metric: name of the score.
    """

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial = trial
        self._key = f"eval_{metric}"
        self._seen = 0
        self.last: float | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the newest score."""
        self.see(state.log_history)

    def see(self, history: list[dict[str, float]]) -> None:
        """Report what is new in a history of scores.

        Raises:
            TrialPruned: the run is not worth going on with.
        """
        scores = [point[self._key] for point in history if self._key in point]
        for score in scores[self._seen :]:
            self._seen += 1
            self.last = score
            self._trial.report(score, self._seen)
            if self._trial.should_prune():
                raise optuna.TrialPruned


def _result(study: optuna.Study, config: TrainConfig, settings: SearchConfig) -> dict[str, Any]:
    """Write what was found, and return it.

    Raises:
        InputError: no trial came to its end.
    """
    out, metric = config.out, TASKS[config.task].metric
    rows = results.rows(study)
    best = best_number(study)
    if best is None:
        raise InputError(
            f"none of {len(rows)} trials came to its end: {', '.join(row['error'] or row['state'] for row in rows[:3])}"
        )
    keep_best(out, best, copy=settings.keep_all)
    drawn = rows[0]["parameters"]
    own = {**checkpoint.read_record(out / BEST)["settings"], "precision": config.precision, **drawn}
    said = f"{metric} {rows[0]['score']:.4f} on dev rows, the best of {len(rows)} trials"
    results.write(out, rows, results.recipe(own, drawn, said))
    results.draw(study, out / "search.png", metric)
    return {
        "metric": metric,
        "best": rows[0],
        "recipe": str(out / results.RECIPE),
        "checkpoint": str(out / BEST),
        "trials": rows,
    }
