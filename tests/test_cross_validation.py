"""Folds, the runs on them, and what is told of them: against naive splitting, hand-worked numbers and plain runs."""

from __future__ import annotations

import collections
import dataclasses
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from burnish_serve.cli import main
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, checkpoint, train
from burnish_train.choose import crossval
from burnish_train.choose.crossval import cross_validate
from burnish_train.choose.crossval_config import FoldsConfig
from burnish_train.choose.folds import fold_of
from burnish_train.choose.scores import spread, spreads
from burnish_train.soup import soup
from tiny_model import labelled_rows, write_rows
from tiny_tasks import WAYS
from training import begun_before, rows_of, weights

ROWS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.integers(0, 8)), min_size=4, max_size=60)


def parted(fold, keys):
    """Return the keys whose rows stand in more than one fold."""
    folds = collections.defaultdict(set)
    for number, key in zip(fold, keys, strict=True):
        folds[key].add(int(number))
    return {key for key, some in folds.items() if len(some) > 1}


def merged(*columns):
    """Return a component for each row, the slow way: rows that share a value in any column, and so on."""
    parts = list(range(len(columns[0])))
    changed = True
    while changed:
        changed = False
        for column in columns:
            for i, one in enumerate(column):
                for j, other in enumerate(column):
                    if one == other and parts[i] != parts[j]:
                        parts[i] = parts[j] = min(parts[i], parts[j])
                        changed = True
    return parts


@given(ROWS, st.integers(2, 5), st.integers(0, 99), st.booleans(), st.booleans())
def test_each_row_is_held_out_once_with_its_text_and_group(rows, folds, seed, labelled, grouped):
    texts, labels, groups = (list(column) for column in zip(*rows, strict=True))
    settings = {"labels": labels if labelled else None, "groups": groups if grouped else None}
    try:
        fold = fold_of(texts, folds=folds, seed=seed, **settings)
    except InputError:
        few = len(set(merged(texts, groups) if grouped else texts)) < folds
        firsts = [label for n, label in enumerate(labels) if texts.index(texts[n]) == n]
        rare = labelled and max(collections.Counter(firsts).values()) < folds
        assume(not grouped)  # whole groups may leave a fold empty
        assert few or rare
        return
    assert set(fold.tolist()) == set(range(folds))
    assert not parted(fold, texts)
    if grouped:
        assert not parted(fold, groups)
    assert (fold == fold_of(texts, folds=folds, seed=seed, **settings)).all()


@given(st.lists(st.sampled_from("abcd"), min_size=10, max_size=80), st.integers(2, 5), st.integers(0, 99))
def test_each_fold_has_its_share_of_each_label(labels, folds, seed):
    assume(max(collections.Counter(labels).values()) >= folds)
    fold = fold_of(range(len(labels)), folds=folds, seed=seed, labels=labels)
    for label in set(labels):
        held = [sum(one == label for one, n in zip(labels, fold, strict=True) if n == k) for k in range(folds)]
        assert max(held) - min(held) <= 1


@given(ROWS, st.booleans())
def test_leave_one_out_holds_out_what_belongs_together_and_no_more(rows, grouped):
    texts, _, groups = zip(*rows, strict=True)
    parts = merged(texts, groups) if grouped else merged(texts)
    assume(len(set(parts)) > 1)
    fold = fold_of(texts, folds=None, seed=0, groups=groups if grouped else None)
    assert len(set(fold)) == len(set(parts)) == len(set(zip(fold.tolist(), parts, strict=True)))


def test_groups_keep_the_shares_of_labels_about():
    groups = [number // 4 for number in range(240)]
    labels = ["rare" if group % 4 == 0 else "common" for group in groups]
    fold = fold_of(range(240), folds=5, seed=1, labels=labels, groups=groups)
    shares = [sum(one == "rare" for one, n in zip(labels, fold, strict=True) if n == k) for k in range(5)]
    assert max(shares) <= 16
    assert min(shares) >= 8


def test_the_interval_of_a_mean_by_hand():
    # Student's 97.5 % point of two degrees of freedom is 4.30265, and 4.30265 * 0.1 / √3 = 0.24841.
    found = spread([0.8, 0.9, 1.0])
    assert found == pytest.approx({"mean": 0.9, "standard_deviation": 0.1, "low": 0.65159, "high": 1.14841}, abs=1e-5)
    assert spreads([{"f1": 0.5, "per_class": {}, "rows": 3}, {"f1": 0.7, "rows": 4}]).keys() == {"f1"}


@pytest.fixture
def settings(tiny_settings, tmp_path):
    """Return a function that makes the settings of runs on 60 rows, with some changed."""
    rows = write_rows(tmp_path / "rows.jsonl", [{**row, "of": n // 2} for n, row in enumerate(labelled_rows(60))])
    plain = {**tiny_settings, "train": str(rows), "test": None, "num_train_epochs": 3.0, "out": tmp_path / "cv"}
    return lambda **changes: TrainConfig(**{**plain, **changes})


@pytest.fixture
def counted(monkeypatch):
    """Return the splits of each run that was begun; a number in ``stop`` is the run that is interrupted."""
    runs, real, stop = [], crossval.train, set()

    def spy(config, *, origin, **rest):
        runs.append((config.out.name, origin.splits))
        if len(runs) in stop:
            raise KeyboardInterrupt
        return real(config, origin=origin, **rest)

    monkeypatch.setattr(crossval, "train", spy)
    return runs, stop


@pytest.mark.usefixtures("one_thread")
def test_the_models_of_the_folds_make_a_soup(settings, tiny_rows, tmp_path):
    config = settings()
    cross_validate(config, FoldsConfig(folds=2, keep_checkpoints=True))
    folds = [config.out / "fold-1", config.out / "fold-2"]
    with pytest.raises(InputError, match="hold different rows, and some of them were trained on by the other"):
        soup(folds, tmp_path / "soup", device="cpu")
    record = soup(folds, tmp_path / "soup", dev=str(tiny_rows / "test.jsonl"), device="cpu")
    assert record["soup"]["taken"] == list(map(str, folds))
    assert 0 <= record["metrics"]["dev"]["accuracy"] <= 1
    one, other, mean = (weights(folder) for folder in (*folds, tmp_path / "soup"))
    assert all(np.allclose(mean[name], (one[name] + other[name]) / 2, atol=1e-6) for name in mean)


@pytest.mark.usefixtures("one_thread")
def test_seconds_are_those_of_all_starts(settings):
    config = settings()
    begun_before(config.out.with_name(config.out.name + ".partial") / "fold-1", 1000.0)
    record = cross_validate(config, FoldsConfig(folds=2), resume=True)
    first, second = (one["seconds"] for one in record["folds"])
    assert 1000 < first < 2000
    assert second < 1000
    assert record["seconds"] == pytest.approx(first + second, abs=0.11)


@pytest.mark.usefixtures("one_thread")
def test_a_fold_is_a_plain_run_without_its_rows(settings, counted, tmp_path):
    config = settings()
    record = cross_validate(config, FoldsConfig(folds=3, keep_checkpoints=True))
    assert json.loads((config.out / "cross-validation.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(record)
    )
    found = rows_of(config.out / "out-of-fold.jsonl")
    assert [row["line"] for row in found] == list(range(1, 61))
    assert [row["text"] for row in found] == [row["text"] for row in rows_of(tmp_path / "rows.jsonl")]
    for row in found:
        best = max(row["scores"], key=row["scores"].get)
        assert row["answer"] == {"label": best, "score": row["scores"][best]}
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert row["correct"] == (best == row["label"])
    pooled = record["out_of_fold"]["metrics"]["accuracy"]
    assert pooled == pytest.approx(sum(row["correct"] for row in found) / 60)
    folds = [one["metrics"]["accuracy"] for one in record["folds"]]
    assert record["metrics"]["accuracy"] == spread(folds)
    for number, (_, splits) in enumerate(counted[0], 1):
        held = {row["text"] for row in found if row["fold"] == number}
        assert {row.texts[0] for row in splits.test} == held
        assert not held & {row.texts[0] for row in [*splits.train, *splits.dev]}
        assert len(splits.train) + len(splits.dev) == 40
        assert splits.dev
    rest = write_rows(tmp_path / "rest.jsonl", [row for row in found if row["fold"] != 2])
    held = write_rows(tmp_path / "held.jsonl", [row for row in found if row["fold"] == 2])
    plain = train(settings(train=str(rest), test=str(held), out=tmp_path / "plain"))
    assert plain["metrics"]["test"] == record["folds"][1]["metrics"]
    answers = checkpoint.load(config.out / "fold-2", device="cpu")([row["text"] for row in rows_of(held)])
    assert answers == [row["answer"] for row in found if row["fold"] == 2]


@pytest.mark.usefixtures("one_thread")
def test_what_is_finished_is_not_run_again(settings, counted, monkeypatch):
    config, how = settings(num_train_epochs=1.0), FoldsConfig(folds=2)
    runs, stop = counted
    stop.add(2)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(config, how)
    assert not config.out.exists()
    with pytest.raises(InputError, match="unfinished folds; --resume goes on with them"):
        cross_validate(config, how)
    for changed, other in ((settings(learning_rate=1.0), how), (config, FoldsConfig(folds=3))):
        with pytest.raises(InputError, match=r"was begun with other settings: (learning_rate was|folds was 2)"):
            cross_validate(dataclasses.replace(changed, num_train_epochs=1.0), other, resume=True)
    with monkeypatch.context() as patch:
        patch.delattr(crossval, "answered")  # stopped between the training of the second and its answers
        with pytest.raises(NameError):
            cross_validate(config, how, resume=True)
    record = cross_validate(config, how, resume=True)
    assert [name for name, _ in runs] == ["fold-1", "fold-2", "fold-2"]  # the second was interrupted once
    assert sorted(path.name for path in config.out.iterdir()) == ["cross-validation.json", "out-of-fold.jsonl"]
    with pytest.raises(InputError, match="exists already"):
        cross_validate(config, how, resume=True)
    again = cross_validate(config, how, overwrite=True)
    assert len(runs) == 5
    assert [one["metrics"] for one in again["folds"]] == [one["metrics"] for one in record["folds"]]


@pytest.mark.usefixtures("one_thread")
def test_folds_learn_in_one_precision_and_from_all_rows_that_a_run_has(settings, counted, tmp_path, monkeypatch):
    runs, _ = counted
    faster = iter([True, False, False])
    monkeypatch.setattr("burnish_train.device._bf16_is_faster", lambda *, cuda: next(faster))
    texts = [{"text": row["text"]} for row in labelled_rows(20, seed=7)]
    (tmp_path / "words.txt").write_text("really\n")
    more = {"unlabelled": str(write_rows(tmp_path / "texts.jsonl", texts)), "label_spreading": True}
    more |= {"trim_vocabulary": True, "vocabulary_texts": (str(tmp_path / "words.txt"),), "precision": "auto"}
    config = settings(num_train_epochs=1.0, dev_fraction=0.2, pseudo_label_threshold=0.0, **more)
    with monkeypatch.context() as patch:
        patch.delattr(crossval, "answered")
        with pytest.raises(NameError):
            cross_validate(config, FoldsConfig(folds=2))
    (tmp_path / "words.txt").write_text("really evening\n")
    with pytest.raises(InputError, match="was begun with other settings: rows of vocabulary was"):
        cross_validate(config, FoldsConfig(folds=2), resume=True)
    (tmp_path / "words.txt").write_text("really\n")
    cross_validate(config, FoldsConfig(folds=2, keep_checkpoints=True), overwrite=True)
    records = [checkpoint.read_record(config.out / f"fold-{number}") for number in (1, 2)]
    assert [record["precision"] for record in records] == ["fp32", "fp32"]
    assert [record["data"]["unlabelled"]["rows"] for record in records] == [20, 20]
    assert [record["data"]["vocabulary"]["rows"] for record in records] == [1, 1]
    assert all(len(splits.unlabelled) == 20 for _, splits in runs)


@pytest.mark.usefixtures("one_thread")
def test_leave_one_out_scores_all_rows_at_once(settings, tmp_path):
    rows = write_rows(tmp_path / "few.jsonl", [{**row, "of": n // 3} for n, row in enumerate(labelled_rows(9))])
    config = settings(train=str(rows), num_train_epochs=1.0, dev_fraction=0.0)
    record = cross_validate(config, FoldsConfig(leave_one_out=True, group_column="of"))
    assert [one["rows"] for one in record["folds"]] == [3, 3, 3]
    assert record["metrics"] == {}
    assert (
        record["out_of_fold"]["metrics"]["accuracy"]
        == sum(r["correct"] for r in rows_of(config.out / "out-of-fold.jsonl")) / 9
    )


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["multi-label-classification", "regression"])
def test_other_tasks(name, settings, tmp_path):
    way = WAYS[name]
    rows = str(write_rows(tmp_path / "other.jsonl", way.rows(40, 0)))
    config = settings(**{"max_length": 32, **way.settings, "task": way.task, "train": rows, "num_train_epochs": 1.0})
    record = cross_validate(config, FoldsConfig(folds=2))
    found = rows_of(config.out / "out-of-fold.jsonl")
    assert len(found) == 40
    assert all(("scores" in row) == ("label" in name) for row in found)
    assert record["metrics"].keys() == record["out_of_fold"]["intervals"].keys()


def test_the_command(settings, tmp_path, one_thread):
    config = settings(num_train_epochs=1.0)
    flags = ["--model", config.model, "--train", config.train, "--out", str(config.out), "--max-length", "16"]
    more = ["--num-train-epochs", "1", "--device", "cpu", "--precision", "fp32"]
    result = CliRunner().invoke(main, ["cross-validate", *flags, *more, "--folds", "2", "--group-column", "of"])
    assert result.exit_code == 0, result.output
    assert re.search(r"2 folds of 60 rows in \d+ s\nmean of the folds:\n  accuracy +0\.\d{4}   95 %", result.stdout)
    found = rows_of(config.out / "out-of-fold.jsonl")
    assert not parted([row["fold"] for row in found], [row["of"] for row in found])
    assert not list(config.out.glob("fold-*"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('dev = "dev.jsonl"\n', encoding="utf-8")
    other = [*flags[:4], "--out", str(tmp_path / "other")]
    for arguments, message in (
        ([*flags, "--json"], f"{config.out} exists already"),
        ([str(recipe), *other], "names dev rows; cross-validation holds out rows of train instead"),
        ([*other, "--group-column", "who"], "rows.jsonl:1: nothing stands in the column 'who'"),
        ([*other, "--folds", "30"], "30 folds are more than any label has texts (20 at the most)"),
        ([*other, "--folds", "1"], "folds must be at least 2, not 1"),
    ):
        result = CliRunner().invoke(main, ["cross-validate", *arguments])
        assert result.exit_code == 1, result.output
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("other*"))
