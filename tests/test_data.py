"""Labelled rows: whatever format they come in gives the same splits, and what is wrong with them is never hidden."""

from __future__ import annotations

import collections
import csv
import hashlib
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve.errors import InputError
from burnish_train import TrainConfig
from burnish_train.data import Example, Splits, cut_dev, read_splits
from tiny_model import LABELS, labelled_rows, write_rows

ROWS = labelled_rows(60)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Keep what datasets prepares from a folder out of the home of whoever runs the tests."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(source: object, **settings) -> Splits:
    files = {name: str(settings.pop(name)) for name in ("dev", "test") if name in settings}
    return read_splits(TrainConfig(model="none", train=str(source), out=Path("none"), **files, **settings))


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format of the file's ending with other people's code."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        write_rows(path, rows)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter={".csv": ",", ".tsv": "\t"}[path.suffix])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_splits_and_the_same_hash(tmp_path, ending):
    splits = read(write(tmp_path / f"rows{ending}", ROWS), dev=write(tmp_path / f"dev{ending}", ROWS[:3]))
    assert [(row.texts[0], row.label) for row in splits.train] == [(row["text"], row["label"]) for row in ROWS]
    assert [row.texts[0] for row in splits.dev] == [row["text"] for row in ROWS[:3]]
    assert splits.test == []
    assert splits.names == LABELS
    digest = hashlib.sha256()
    for row in ROWS:
        digest.update((json.dumps([row["text"], row["label"]], ensure_ascii=False) + "\n").encode())
    assert splits.sources["train"] == {
        "source": str(tmp_path / f"rows{ending}"),
        "sha256": digest.hexdigest(),
        "rows": 60,
    }
    assert splits.sources["dev"]["rows"] == 3


def test_columns_are_named_by_settings_and_whole_numbers_are_labels(tmp_path):
    rows = [{"label": "wrong", "sentence": row["text"], "class": LABELS.index(row["label"])} for row in ROWS]
    splits = read(write_rows(tmp_path / "a.jsonl", rows), text_column="sentence", label_column="class")
    assert splits.names == ("0", "1", "2")
    assert {row.texts[0] for row in splits.train + splits.dev} == {row["text"] for row in ROWS}


@pytest.mark.parametrize("name", ["intents", "intents.v2"])
def test_a_dataset_folder_is_read_like_one_of_the_hub(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for split, some in (("train", ROWS[:40]), ("validation", ROWS[40:50]), ("test", ROWS[50:])):
        write_rows(folder / f"{split}.jsonl", some)
    splits = read(folder, dev=folder, test=folder)
    assert [row.texts[0] for row in splits.train] == [row["text"] for row in ROWS[:40]]
    assert [row.texts[0] for row in splits.dev] == [row["text"] for row in ROWS[40:50]]
    assert [row.texts[0] for row in splits.test] == [row["text"] for row in ROWS[50:]]
    named = read(f"{folder}@test")
    assert {row.texts[0] for row in named.train + named.dev} == {row["text"] for row in ROWS[50:]}


def test_class_numbers_of_a_dataset_become_their_names(tmp_path):
    folder = tmp_path / "intents"
    folder.mkdir()
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))})
    data = datasets.Dataset.from_list([{**row, "label": LABELS.index(row["label"])} for row in ROWS], features)
    data.to_parquet(folder / "train.parquet")
    splits = read(folder, dev_fraction=0.0)
    assert [row.label for row in splits.train] == [row["label"] for row in ROWS]


def test_a_dataset_that_is_not_there_is_one_sentence():
    with pytest.raises(InputError, match="nobody/nothing: neither a file of rows nor a dataset that can be loaded"):
        read("nobody/nothing")


def test_dev_is_the_same_for_a_seed_and_another_for_another(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    first, again, other = read(path, seed=1), read(path, seed=1), read(path, seed=2)
    assert (first.train, first.dev) == (again.train, again.dev)
    assert first.dev != other.dev
    assert first.sources["dev"] == {"cut_from": "train", "fraction": 0.1, "seed": 1, "rows": 6}
    assert first.sources["train"]["rows_left"] == 54


def example(text, label):
    """Return a labelled row as reading makes it."""
    return Example({"text": text}, (text,), label, label)


examples = st.builds(example, st.text("ab", min_size=1, max_size=3), st.sampled_from("xyz"))


def counted(rows):
    """Return how often each text stands there with each label."""
    return collections.Counter((row.texts, row.right) for row in rows)


@given(st.lists(examples, max_size=40), st.floats(0, 0.9), st.integers(0, 2**31))
def test_the_cut_leaks_no_text_loses_no_row_and_keeps_the_order(rows, fraction, seed):
    train, dev = cut_dev(rows, fraction, seed)
    assert not {row.texts[0] for row in train} & {row.texts[0] for row in dev}
    assert counted(train) + counted(dev) == counted(rows)
    for part in (train, dev):
        kept = iter(rows)
        assert all(any(row is other for other in kept) for row in part)
    assert {row.label for row in rows} == {row.label for row in train} or any(
        len({row.label for row in rows if row.texts[0] == text}) > 1 for text in {row.texts[0] for row in rows}
    )
    assert cut_dev(rows, fraction, seed) == (train, dev)


@given(
    st.dictionaries(st.sampled_from(["x", "y", "z"]), st.integers(1, 40), min_size=1),
    st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5]),
    st.integers(0, 100),
)
def test_each_label_gives_its_share_and_keeps_a_row_to_learn_from(counts, fraction, seed):
    rows = [example(f"{label} {i}", label) for label, count in counts.items() for i in range(count)]
    train, dev = cut_dev(rows, fraction, seed)
    for label, count in counts.items():
        left, cut = (sum(row.label == label for row in part) for part in (train, dev))
        assert left >= 1
        assert abs(cut - fraction * count) <= 0.5 or left == 1


def test_sound_rows_give_no_warning(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    other = write_rows(tmp_path / "b.jsonl", labelled_rows(20, seed=5))
    assert read(path, test=other).warnings == ()


def test_texts_that_stand_in_two_splits_are_reported(tmp_path):
    train, test = write_rows(tmp_path / "a.jsonl", ROWS), write_rows(tmp_path / "b.jsonl", ROWS[:2])
    own = write_rows(tmp_path / "dev.jsonl", [*labelled_rows(9, seed=5), ROWS[0]])
    warnings = read(train, dev=own, test=test).warnings
    assert [warning.partition(",")[0] for warning in warnings] == [
        "train and dev share 1 text",
        "train and test share 2 texts",
        "dev and test share 1 text",
    ]
    assert repr(ROWS[0]["text"][:80]) in warnings[0]
    # Where dev is cut from train, a text of test may have gone to either.
    assert sum(int(warning.split("share ")[1].split()[0]) for warning in read(train, test=test).warnings) == 2


def test_a_text_with_two_labels_is_reported(tmp_path):
    torn = {"text": ROWS[0]["text"], "label": LABELS[1]}
    twice = ROWS[5]
    (warning,) = read(write_rows(tmp_path / "a.jsonl", [*ROWS, torn, twice])).warnings
    assert warning.startswith("train: 1 text with more than one label")
    assert repr(torn["text"][:80]) in warning
    assert "(alarm, music)" in warning


def test_empty_texts_are_left_out_and_reported_with_their_line(tmp_path):
    rows = [*ROWS[:3], {"text": "", "label": "music"}, {"text": " \t", "label": "rare"}, *ROWS[3:]]
    path = write_rows(tmp_path / "a.jsonl", rows)
    splits = read(path)
    assert splits.names == LABELS
    assert len(splits.train) + len(splits.dev) == 60
    assert splits.warnings == (f"{path}: 2 rows with an empty text left out (line 4 first)",)


def test_classes_with_a_single_row_are_reported(tmp_path):
    rare = [{"text": f"one of {label}", "label": label} for label in ("rare", "odd")]
    splits = read(write_rows(tmp_path / "a.jsonl", [*ROWS, *rare]))
    assert splits.warnings == ("train: 2 classes with a single row: 'odd', 'rare'",)
    assert {"rare", "odd"} <= {row.label for row in splits.train}


def test_labels_that_are_too_few_to_cut_a_dev_split_from_are_reported(tmp_path):
    splits = read(write_rows(tmp_path / "a.jsonl", ROWS[:9]))
    assert splits.dev == []
    assert any("dev" in warning for warning in splits.warnings), "nothing says that no epoch can be chosen"


def test_no_dev_where_none_is_asked_for(tmp_path):
    splits = read(write_rows(tmp_path / "a.jsonl", ROWS), dev_fraction=0.0)
    assert (len(splits.train), splits.dev, splits.warnings) == (60, [], ())


def test_one_class_only(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{**row, "label": "music"} for row in ROWS])
    with pytest.raises(InputError, match=r"a.jsonl: all rows have the label 'music'; .* at least two labels"):
        read(path)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_that_train_does_not_have(tmp_path, split):
    train = write_rows(tmp_path / "a.jsonl", ROWS)
    other = write_rows(tmp_path / "b.jsonl", [ROWS[0], {"text": "open the door", "label": "door"}])
    with pytest.raises(
        InputError,
        match=r"b.jsonl: labels that .*a.jsonl does not have: 'door'; known are: 'alarm', 'music', 'weather'",
    ):
        read(train, **{split: other})


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_missing_column_names_those_there_are(tmp_path, column):
    path = write_rows(tmp_path / "a.jsonl", [*ROWS[:2], {"kind": "x", "text" if column == "label" else "label": "y"}])
    other = "text" if column == "label" else "label"
    with pytest.raises(InputError, match=f"a.jsonl:3: no column '{column}'; the columns there are: 'kind', '{other}'"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a", "label": "x"}\n\n{"text": \n', "a.jsonl:3: not a JSON object"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n[1]\n', "a.jsonl:2: not a JSON object but list"),
        ("a.jsonl", '{"text": 3, "label": "x"}\n', "a.jsonl:1: column 'text' must hold text, not 3"),
        ("a.jsonl", '{"text": "a", "label": ""}\n', "a.jsonl:1: the label in column 'label' is empty"),
        ("a.jsonl", '{"text": "a", "label": null}\n', "a.jsonl:1: the label in column 'label' is empty"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n', r"a.jsonl:1: a label is text or a whole number, not \[1\]"),
        ("a.jsonl", '{"text": "a", "label": 0.5}\n', "a.jsonl:1: a label is text or a whole number, not 0.5"),
        ("a.csv", "text,label\na,x\nb\n", "a.csv:3: 1 fields where the header has 2"),
        ("a.csv", 'text,label\n"a,x\n', "a.csv:2: "),
        ("a.parquet", "no table", "a.parquet: not a Parquet file"),
        ("a.xlsx", "", "a.xlsx: cannot tell the format from the ending '.xlsx'; known are .jsonl"),
        ("a.jsonl", "", "a.jsonl has no rows"),
        ("a.csv", "text,label\n", "a.csv has no rows"),
        ("a.jsonl", '{"text": "", "label": "x"}\n', "a.jsonl has no rows"),
        (None, "", "no such file: .*a.jsonl"),
    ],
)
def test_what_cannot_be_read_is_said_with_file_and_line(tmp_path, name, content, said):
    path = tmp_path / (name or "a.jsonl")
    if name:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read(path)


def test_bytes_that_are_no_text_are_said_with_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a", "label": "x"}\n{"text": "\xff", "label": "x"}\n')
    with pytest.raises(InputError, match=r"a.jsonl:2: not UTF-8 text"):
        read(path)
