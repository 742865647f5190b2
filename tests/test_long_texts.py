"""What becomes of texts longer than the model, and what else the flags of predict and evaluate decide, on a bundle.

The tiny bundle's model is a bag of words that reads 16 tokens, two of them special, and each word is one token: so a
window of a text is a text of 14 words, and what it says is known without windows.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from burnish_serve import load
from burnish_serve.cli import main
from burnish_serve.errors import InputError
from burnish_serve.tasks import Decoding
from tiny_model import write_rows

ROOM = 14
TEXT = "the great film is not bad but slow and the plot is dull it was a nice day and I love the music of this place"
LONG = TEXT.split()
SHORT = "dull"


@pytest.fixture
def bundle(bundle_copy, edit_manifest):
    """Return a function that gives the tiny bundle another manifest."""

    def edited(**changes):
        edit_manifest(bundle_copy, **changes)
        return bundle_copy

    return edited


@pytest.fixture
def burnish():
    """Return a function that runs the command in this process."""

    def run(*arguments, status=0):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == status, result.output
        return result

    return run


def windows_of(words, stride, room=ROOM):
    """Return the words of each window, worked out here: the next begins so that `stride` words stand in both."""
    found, start = [], 0
    while True:
        found.append(words[start : start + room])
        if start + room >= len(words):
            return found
        start += room - stride


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


# Windows


@pytest.mark.parametrize("stride", [0, 4, 13])
def test_the_answer_for_windows_is_that_of_the_mean_of_their_logits(bundle, stride):
    folder = bundle(stride=stride)
    plain = load(folder, variant="fp32")
    expected = plain.logits([" ".join(words) for words in windows_of(LONG, stride)]).mean(axis=0)
    model = load(folder, variant="fp32", on_long="window")
    np.testing.assert_allclose(model.logits([" ".join(LONG)])[0], expected, atol=1e-6)
    (answer,) = model([" ".join(LONG)], top_k=None)
    assert [one["score"] for one in answer] == pytest.approx(sorted(softmax(expected), reverse=True), abs=1e-6)
    assert all("truncated" not in one for one in answer), "all of it was read"
    assert model(SHORT) == plain(SHORT)


def test_the_longer_text_of_a_pair_is_read_in_windows_beside_the_whole_of_the_other(bundle):
    folder = bundle()
    plain, model = load(folder, variant="fp32"), load(folder, variant="fp32", on_long="window")
    room = 16 - 3 - 2
    for first, second in ((LONG, ["nice", "film"]), (["nice", "film"], LONG)):
        pairs = [
            {
                "text_a": " ".join(window if first is LONG else first),
                "text_b": " ".join(window if second is LONG else second),
            }
            for window in windows_of(LONG, 0, room)
        ]
        expected = plain.logits(pairs).mean(axis=0)
        (logits,) = model.logits([{"text_a": " ".join(first), "text_b": " ".join(second)}])
        np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_long_and_short_texts_go_together_in_any_order(bundle):
    model = load(bundle(stride=4), variant="int8", on_long="window")
    rows = [" ".join(LONG), SHORT, " ".join(LONG[:15]), " ".join(LONG[3:]), "great"]
    together = model(rows, top_k=None)
    assert together == [model([row], top_k=None)[0] for row in rows]
    assert together[::-1] == model(rows[::-1], top_k=None)


# Errors and truncation


def test_a_text_that_is_too_long_is_an_error_that_names_its_row_where_that_is_asked_for(bundle):
    model = load(bundle(), on_long="error")
    assert model([SHORT, " ".join(LONG[:ROOM])])
    with pytest.raises(InputError, match=r"^row 2 has more than 16 tokens; 2 of 3 have"):
        model([SHORT, " ".join(LONG), " ".join(LONG)])


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_the_command_names_file_and_line(bundle, burnish, tmp_path, verb):
    folder = bundle()
    rows = [{"text": SHORT, "label": "negative"}] * 2 + [{"text": " ".join(LONG), "label": "negative"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    given = ("predict", folder, path) if verb == "predict" else ("evaluate", folder, "--data", path)
    result = burnish(*given, "--on-long", "error", status=1)
    assert (f"{path}:3 has more" if verb == "predict" else "row 3 has more") in result.stderr
    assert burnish(*given, "--on-long", "window")


def test_a_cut_text_says_so_and_the_command_counts_them(bundle, burnish, tmp_path):
    folder = bundle()
    path = write_rows(tmp_path / "rows.jsonl", [{"text": SHORT}, {"text": " ".join(LONG)}])
    for on_long, cut in ((None, True), ("truncate", True), ("window", False)):
        flags = ("--on-long", on_long) if on_long else ()
        result = burnish("predict", folder, path, *flags)
        short, long = (json.loads(line)["answer"] for line in result.stdout.splitlines())
        assert "truncated" not in short
        assert long.get("truncated", False) is cut
        assert ("1 of 2 texts were cut at 16 tokens" in result.stderr) is cut


def test_a_model_made_for_pairs_asks_for_pairs(bundle, burnish):
    pair = {"text_a": "great film", "text_b": "nice plot"}
    folder = bundle(golden_rows=(pair,) * 3)
    assert load(folder)(pair) == load(folder)({"text": pair["text_a"], "text_pair": pair["text_b"]})
    with pytest.raises(InputError, match="row 2 is one text, and this model was made for pairs: text_a and text_b"):
        load(folder)([pair, "great film"])
    assert "--text:1 is one text" in burnish("predict", folder, "--text", "great film", status=1).stderr


# Flags of tasks


def test_top_k_of_several_labels(bundle, burnish, tmp_path):
    limits = {"negative": 0.4, "positive": 0.1}
    folder = bundle(task="multi-label-classification", decoding=Decoding(thresholds=limits))
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "dull film"}, {"text": "great"}, {"text": "the"}])
    (every, one, reached) = (
        [json.loads(line)["answer"] for line in burnish("predict", folder, path, *flags).stdout.splitlines()]
        for flags in (("--top-k", "all"), ("--top-k", "1"), ("--top-k", "threshold"))
    )
    assert [len(row) for row in every] == [2, 2, 2]
    assert one == [row[0] for row in every]
    assert reached == [[answer for answer in row if answer["score"] >= limits[answer["label"]]] for row in every]
    assert {len(row) for row in reached} > {1}
    plain = burnish("predict", folder, path).stdout.splitlines()
    assert [json.loads(line)["answer"] for line in plain] == reached, (
        "thresholds are what is asked where nothing is said"
    )
    assert "has no option 'reject_below'" in burnish("predict", folder, path, "--reject-below", "0.5", status=1).stderr
    single = bundle(task="text-classification")
    assert "top_k must be a whole number" in burnish("predict", single, path, "--top-k", "threshold", status=1).stderr


def test_rejection_by_flag_and_by_manifest(bundle, burnish, tmp_path):
    folder = bundle(decoding=Decoding(reject_label="neither", reject_below=0.8))
    rows = [
        {"text": "great", "kind": "positive"},
        {"text": "the", "kind": "neither"},
        {"text": "cold", "kind": "negative"},
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)

    def labels(*flags):
        lines = burnish("predict", folder, path, "--variant", "fp32", *flags).stdout.splitlines()
        return [json.loads(line)["answer"]["label"] for line in lines]

    assert labels() == ["positive", "neither", "negative"]
    assert labels("--reject-below", "1") == ["neither"] * 3
    assert "neither" not in labels("--reject-below", "0")
    found = burnish("evaluate", folder, "--data", path, "--label-column", "kind", "--variant", "fp32", "--json")
    metrics = json.loads(found.stdout)["metrics"]
    assert (metrics["accuracy_in_scope"], metrics["recall_rejected"]) == (1, 1)
    never = burnish("evaluate", folder, "--data", path, "--label-column", "kind", "--reject-below", "0", "--json")
    assert json.loads(never.stdout)["metrics"]["recall_rejected"] == 0
