"""The study: finished trials in a file of SQLite, and the next settings as a function of them.

What is in the file is finished. A trial enters it in one transaction, with its settings, scores and state, so a kill
leaves no half of one. The next settings are asked of a copy in memory, of a sampler that is seeded with the trial's
number alone. So whoever asks again, after a kill, gets the same answer, and the run that was killed is gone on with.

>>> with opened(Path("search/study.db")) as study:  # doctest: +SKIP
...     trial = suggest(study, space, settings, seed=42, epochs=5)
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution

from burnish_train.choose.config import SearchConfig
from burnish_train.choose.space import grid

NAME = "search"
# Trials by chance, before the sampler believes in what it saw, and whole ones before a pruner does.
STARTUP = 5


@contextlib.contextmanager
def opened(path: Path) -> Iterator[optuna.Study]:
    """Open a study, made where there is none; optuna keeps its notes to itself until it is closed."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if not path.exists():  # beside and renamed: tables, versions and the study are several transactions
            new = path.with_name(path.name + ".partial")
            new.unlink(missing_ok=True)
            with _storage(new) as storage:
                optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
            new.replace(path)
        with _storage(path) as storage:
            yield optuna.load_study(study_name=NAME, storage=storage)
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open a storage on a file of any name, and close it."""
    storage = optuna.storages.RDBStorage(
        "sqlite:///study.db", engine_kwargs={"creator": lambda: sqlite3.connect(path)}
    )  # the URL says what it is; in one with a path, some characters would mean something else
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def suggest(
    study: optuna.Study, space: Mapping[str, BaseDistribution], settings: SearchConfig, *, seed: int, epochs: int
) -> optuna.Trial:
    """Return the next trial, which is in memory alone; it can be pruned.

    Args:
        study: the finished trials.
        space: what each setting is drawn from.
        settings: name the sampler and the pruner.
        seed: of the search.
        epochs: of a trial at the most.
    """
    trials = study.trials
    own = int(np.random.SeedSequence([seed, len(trials)]).generate_state(1)[0])
    memory = optuna.create_study(
        study_name=NAME,  # which Hyperband draws its brackets by
        direction="maximize",
        sampler=_sampler(settings.sampler, space, seed, own),
        pruner=_pruner(settings.pruner, epochs),
    )
    memory.add_trials(trials)
    return memory.ask(dict(space))


def _sampler(name: str, space: Mapping[str, BaseDistribution], seed: int, own: int) -> optuna.samplers.BaseSampler:
    if name == "grid":  # its order is the search's, and a trial's place in it is its number
        return optuna.samplers.GridSampler(grid(space), seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    # Bergstra et al., 2011; over all settings together: Falkner et al., 2018, arXiv:1807.01774.
    return optuna.samplers.TPESampler(seed=own, multivariate=True, n_startup_trials=STARTUP)


def _pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
    if name == "hyperband":  # Li et al., 2018, arXiv:1603.06560
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    return optuna.pruners.NopPruner()


def finish(
    study: optuna.Study, trial: optuna.Trial, state: optuna.trial.TrialState, score: float | None, **about: Any
) -> None:
    """Write a finished trial into the study, in one transaction.

    Args:
        study: the study.
        trial: as `suggest` made it.
        state: complete, pruned or failed.
        score: on the dev rows; None where it failed.
        about: what else is to be known of it.
    """
    seen = trial.study.trials[trial.number]
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=score,
            params=seen.params,
            distributions=seen.distributions,
            user_attrs=about,
            system_attrs=seen.system_attrs,
            intermediate_values=seen.intermediate_values,
        )
    )


def best_number(study: optuna.Study) -> int | None:
    """Return the number of the best whole trial, the first of equals; None where there is none."""
    whole = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    return max(whole, key=lambda trial: (trial.value, -trial.number)).number if whole else None
