"""`burnish audit`: each finding against planted faults, brute force, scikit-learn or numbers by hand."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve.cli import main
from burnish_serve.errors import InputError
from burnish_train import checkpoint
from burnish_train.choose.folds import fold_of
from burnish_train.data import Example
from burnish_train.insight import duplicates, out_of_fold
from burnish_train.insight.audit import audit
from burnish_train.insight.audit_config import AuditConfig
from burnish_train.insight.audit_page import page, text
from burnish_train.insight.labels import doubted
from burnish_train.insight.slices import slices
from burnish_train.insight.swaps import read_swaps, swap_report, swapped
from burnish_train.insight.vectors import Vectors
from tiny_model import LABELS, labelled_rows, write_rows
from tiny_tasks import WAYS
from training import rows_of


def example(text, label, line, **row):
    return Example({"text": text}, (text,), label, label, line, {"text": text, "label": label, **row})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return a file of 180 rows in which 9 labels are wrong, and the lines of these."""
    rows, draw = labelled_rows(180), random.Random(5)
    wrong = draw.sample(range(180), 9)
    for place in wrong:
        rows[place]["label"] = draw.choice([label for label in LABELS if label != rows[place]["label"]])
    path = write_rows(tmp_path_factory.mktemp("planted") / "rows.jsonl", rows)
    return str(path), {place + 1 for place in wrong}, rows


@pytest.mark.usefixtures("one_thread")
def test_planted_wrong_labels_are_found(planted, tiny_encoder):
    path, wrong, rows = planted
    found = audit(AuditConfig(rows=path, model=str(tiny_encoder), device="cpu"))
    doubts = found["wrong_labels"]
    assert len({one["line"] for one in doubts} & wrong) >= 5
    assert len({one["line"] for one in doubts} - wrong) <= 1
    assert [one["quality"] for one in doubts] == sorted(one["quality"] for one in doubts)
    for one in doubts:
        assert one["label"] == rows[one["line"] - 1]["label"] != one["suggested"]
        assert one["texts"] == [rows[one["line"] - 1]["text"]]
    assert found["scores"] == "probe"
    assert found["leaks"] == found["swaps"] == []


def test_the_probe_has_not_seen_what_it_scores():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    draw = np.random.default_rng(0)
    labels = [LABELS[number % 3] for number in range(60)]
    rows = [example(f"text {number // 2}", label, number + 1) for number, label in enumerate(labels)]
    vectors = draw.normal(size=(60, 8)).astype(np.float32)
    found = out_of_fold.probed(rows, vectors, LABELS, folds=4, seed=3)
    fold = fold_of([row.texts for row in rows], folds=4, seed=3, labels=labels)
    model = LogisticRegression(C=out_of_fold.STRENGTH, max_iter=out_of_fold.STEPS)
    wanted = cross_val_predict(model, vectors, labels, cv=PredefinedSplit(fold), method="predict_proba")
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_probe_of_several_labels_and_of_rare_ones():
    draw = np.random.default_rng(0)
    rows = [example(f"text {n}", frozenset(["a"] if n % 2 else ["a", "b"]), n + 1) for n in range(40)]
    vectors = np.array([[1.0, -1.0] if n % 2 else [-1.0, 1.0] for n in range(40)], dtype=np.float32)
    vectors += draw.normal(scale=0.1, size=vectors.shape).astype(np.float32)
    found = out_of_fold.probed(rows, vectors, ["a", "b", "c"], folds=4, seed=0)
    assert (found[:, 0] == 1).all()  # every row has it
    assert ((found[:, 1] > 0.5) == np.array([n % 2 == 0 for n in range(40)])).all()
    assert (found[:, 2] == 0).all()  # no row has it
    rows = [example(f"text {n}", "rare" if n == 7 else LABELS[n % 2], n + 1) for n in range(40)]
    found = out_of_fold.probed(rows, vectors, sorted({row.right for row in rows}), folds=4, seed=0)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert found[7].argmax() != 2


def test_wrong_sets_of_labels_are_found():
    names = ["a", "b", "c"]
    rights = [frozenset(names[k] for k in range(3) if (n >> k) & 1) for n in range(8)] * 10
    scores = np.array([[0.95 if name in right else 0.05 for name in names] for right in rights])
    rows = [example(f"text {n}", right, n + 1) for n, right in enumerate(rights)]
    rows[37] = example("text 37", frozenset("ab"), 38)  # what is believed is a, c
    rows[26] = example("text 26", frozenset("bc"), 27)  # what is believed is b: one wrong label, and not two
    scores[26] = [0.05, 0.95, 0.02]
    found = doubted(rows, scores, names)
    assert [one["line"] for one in found] == [38, 27]
    assert [one["suggested"] for one in found] == [["a", "c"], ["b"]]
    assert found[0]["quality"] < found[1]["quality"]


def test_what_people_do_not_see_is_no_difference():
    assert duplicates.normal(" Ｇreat\u00a0 FILM\t") == duplicates.normal("great film") == "great film"
    rows = [
        example(one, label, line)
        for line, (one, label) in enumerate([("Hi  there", "a"), ("other", "a"), ("hi THERE", "b"), ("Other", "a")], 3)
    ]
    first, second = duplicates.same(rows)
    assert first == {"lines": [3, 5], "labels": ["a", "b"], "differ": True, "texts": ["Hi  there"]}
    assert (second["lines"], second["differ"]) == ([4, 6], False)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 0.9]))
def test_near_pairs_are_those_of_brute_force(seed, threshold):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(12, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [example(f"t{draw.integers(9)}", str(draw.integers(2)), n + 1) for n in range(12)]
    cosines = vectors @ vectors.T
    wanted = set()
    for i, row in enumerate(rows):
        others = [j for j, other in enumerate(rows) if other.texts != row.texts]
        for some in (others, [j for j in others if rows[j].right != row.right]):
            if some and cosines[i, best := max(some, key=lambda j, i=i: cosines[i, j])] >= threshold:
                wanted.add((min(i, best) + 1, max(i, best) + 1))
    found = duplicates.near(rows, vectors, threshold)
    assert {tuple(one["lines"]) for one in found} == wanted
    assert [one["differ"] for one in found] == sorted((one["differ"] for one in found), reverse=True)
    for one in found:
        i, j = (line - 1 for line in one["lines"])
        assert one["cosine"] == pytest.approx(cosines[i, j], abs=1e-4)
        assert one["differ"] == (rows[i].right != rows[j].right)


def test_leaks_are_the_same_or_near(monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", 2)
    train = [example("one", "a", 1), example("two", "a", 2), example("three", "b", 3)]
    held = [example("far", "a", 1), example("near two", "b", 2), example("THREE", "b", 3)]
    near_two = np.array([0, np.sqrt(1 - 0.01), 0.1])
    found = duplicates.leaks(train, held, np.eye(3), np.array([[0.5, -0.5, -0.7], near_two, [1, 0, 0]]), 0.9)
    assert [(one["kind"], one["line"], one["train_line"]) for one in found] == [("same", 3, 3), ("near", 2, 2)]
    assert found[1]["differ"]
    assert found[1]["cosine"] == pytest.approx(0.995, abs=1e-4)


def test_slices_by_hand():
    rows = [example("x" * (1 + n % 40), "ab"[n >= 30], n + 1, by="p" if n % 2 else "q") for n in range(40)]
    correct = [n >= 10 for n in range(40)]
    found = {(one["by"], one["value"]): one for one in slices(rows, correct, "by")}
    assert len(found) == 4 + 2 + 2
    one = found["class", "a"]
    # Wilson, 20 of 30 right: (0.6667 + 0.06402 ± 1.95996 * √(0.007407 + 0.001067)) / 1.12805.
    assert (one["rows"], one["correct"]) == (30, 20)
    assert (one["low"], one["high"]) == pytest.approx((0.4878, 0.8077), abs=1e-4)
    assert found["class", "b"]["accuracy"] == 1
    assert found["length", "1 to 10 characters"]["accuracy"] == 0
    assert sum(one["rows"] for key, one in found.items() if key[0] == "length") == 40
    order = slices(rows, correct, "by")
    assert order[0]["value"] == "1 to 10 characters"
    assert [one["high"] for one in order] == sorted(one["high"] for one in order)


def test_a_slice_of_one_wrong_row_is_not_the_worst():
    rows = [example("x", "many" if n else "one", n + 1) for n in range(101)]
    classes = [one for one in slices(rows, [n > 60 for n in range(101)], None) if one["by"] == "class"]
    assert [(one["value"], one["accuracy"]) for one in classes] == [("many", 0.4), ("one", 0.0)]


@pytest.mark.parametrize(
    ("before", "groups", "after"),
    [
        ("He took HIS hat, the ship", [("he", "she"), ("his", "her")], ["She took HER hat, the ship"]),
        ("she met him", [("he", "she"), ("him", "her")], ["he met her"]),
        ("hers", [("he", "she")], []),
        ("Ahmed called", [("Ahmed", "John", "Li")], ["John called", "Li called"]),
        ("from New York.", [("New York", "Lagos")], ["from Lagos."]),
        ("他说她来了", [("他", "她")], ["她说他来了"]),
        ("a (C++) b", [("c++", "rust")], ["a (RUST) b"]),
        ("İ", [("i", "you")], ["İ"]),
    ],
)
def test_words_are_exchanged(before, groups, after):
    assert swapped(before, groups) == after


def test_swaps_from_a_file(tmp_path):
    path = tmp_path / "swaps.toml"
    path.write_text('gender = [["he", "she"], ["his", "her"]]\n', encoding="utf-8")
    groups = {"gender": [("he", "she"), ("his", "her")], "a, b": [("a", "b")]}
    assert read_swaps([str(path), "a, b"]) == groups
    for content, message in (
        ('gender = ["he", "she"]\n', r"gender must be a list of groups of words, such as \[\["),
        ('gender = [["he", "she"], ["a", "b", "c"]]\n', "groups of one name have as many each"),
        ('gender = [["he"]]\n', "a group has two words or more"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_swaps([str(path)])


@pytest.mark.usefixtures("one_thread")
def test_exchanged_words_change_answers_where_they_matter(tiny_rows, tiny_encoder, tiny_checkpoint):
    path = str(tiny_rows / "test.jsonl")
    settings = {"rows": path, "model": str(tiny_encoder), "target": str(tiny_checkpoint), "device": "cpu"}
    found = audit(AuditConfig(**settings, swap=("alarm,music", "nothing,nowhere", "the,a,some")))
    telling, missing, blind = found["swaps"]
    model, rows = checkpoint.load(tiny_checkpoint, device="cpu"), rows_of(tiny_rows / "test.jsonl")
    turned = {"alarm": "music", "music": "alarm"}
    pairs = [(row["text"], " ".join(turned.get(word, word) for word in row["text"].split())) for row in rows]
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    before, after = (model([pair[side] for pair in pairs], top_k=None) for side in (0, 1))
    scores = [[{one["label"]: one["score"] for one in row} for row in side] for side in (before, after)]
    moved = [max(abs(one[label] - other[label]) for label in one) for one, other in zip(*scores, strict=True)]
    changed = sum(one[0]["label"] != other[0]["label"] for one, other in zip(before, after, strict=True))
    assert telling["rows"] == len(pairs)
    assert telling["changed"] == changed > 0.8 * len(pairs)
    assert telling["mean_change"] == pytest.approx(np.mean(moved), abs=1e-4)
    assert telling["share"] > blind["share"]
    assert telling["low"] < telling["share"] <= telling["high"]
    assert missing["rows"] == 0
    assert telling["examples"][0]["swapped"] != telling["examples"][0]["texts"]
    assert found["answers"] == str(tiny_checkpoint)
    assert found["accuracy"] == sum(
        one["label"] == row["label"] for one, row in zip(model(rows), rows, strict=True)
    ) / len(rows)


@pytest.mark.usefixtures("one_thread")
def test_the_command_writes_rows_and_a_page(tiny_encoder, tiny_rows, tmp_path):
    rows = [{**row, "from": "phone"} for row in labelled_rows(60)]
    rows[3]["text"] = "<script>alert('x')</script> music \x1b[31m"
    rows[3]["label"] = rows[0]["label"]
    rows.append({**rows[0], "text": rows[0]["text"].upper(), "from": "mail"})
    path, test = write_rows(tmp_path / "rows.jsonl", rows), write_rows(tmp_path / "test.jsonl", rows[10:12])
    dev = write_rows(tmp_path / "dev.jsonl", [rows[20], rows[10]])
    out, page_ = tmp_path / "found.jsonl", tmp_path / "found.html"
    flags = ["--model", str(tiny_encoder), "--device", "cpu", "--near", "0.2", "--slice-column", "from"]
    more = ["--dev", str(dev), "--test", str(test), "--out", str(out), "--html", str(page_)]
    result = CliRunner().invoke(main, ["audit", str(path), *flags, *more, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["duplicates"] == [
        {"lines": [1, 61], "labels": [rows[0]["label"]] * 2, "differ": False, "texts": [rows[0]["text"]]}
    ]
    assert {
        (one["from"], one["train_line"], one["to"], one["line"]) for one in found["leaks"] if one["kind"] == "same"
    } == {
        ("rows", 21, "dev", 1),
        ("rows", 11, "dev", 2),
        ("rows", 11, "test", 1),
        ("rows", 12, "test", 2),
        ("dev", 2, "test", 1),
    }
    assert {one["by"] for one in found["slices"]} == {"length", "class", "from"}
    kinds = {one["line"]: {finding["kind"] for finding in one["findings"]} for one in rows_of(out)}
    assert "duplicate" in kinds[1] & kinds[61]
    assert "leak" in kinds[11]
    for one in found["wrong_labels"]:
        assert "wrong-label" in kinds[one["line"]]
    assert all(row["text"] == rows[row["line"] - 1]["text"] for row in rows_of(out))
    html = page_.read_text(encoding="utf-8")
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)
    parser.feed(html)
    assert "script" not in tags
    assert "&lt;script&gt;" in html
    assert not any(sign in html for sign in ("http:", "https:", "src="))
    result = CliRunner().invoke(main, ["audit", str(path), *flags, "--top", "3"])
    assert result.exit_code == 0, result.output
    assert "near-duplicates: " in result.stdout
    assert "… and " in result.stdout
    assert "\x1b" not in result.stdout


def test_pages_escape_whatever_rows_hold():
    evil = "<img src=x onerror=alert(1)>\"'&"
    red = "\x1b[31mred\x1b[0m\r"
    one = {"line": 1, "label": evil, "suggested": evil, "quality": 0.0, "texts": [evil]}
    nothing = {key: [] for key in ("duplicates", "near_duplicates", "leaks", "slices", "swaps")}
    found = {
        **nothing,
        "wrong_labels": [one],
        "source": evil,
        "rows": 1,
        "task": "t",
        "accuracy": None,
        "notes": [evil],
    }
    shown = page(found, 10)
    assert "<img" not in shown
    assert shown.count("&lt;img") == 7  # the title, the heading, two sentences, three cells
    assert evil in text(found, 10)
    shown = text({**found, "wrong_labels": [{**one, "texts": [red], "label": red}]}, 10)
    assert "red" in shown
    assert not {"\x1b", "\r"} & set(shown)


@pytest.mark.usefixtures("one_thread")
def test_scores_from_a_cross_validation(planted, tiny_encoder, tmp_path):
    path, wrong, rows = planted
    told = []
    for line, row in enumerate(rows, 1):
        best = LABELS[(LABELS.index(row["label"]) + (line in wrong)) % 3]
        scores = {label: 0.98 if label == best else 0.01 for label in LABELS}
        told.append({**row, "line": line, "answer": {}, "correct": best == row["label"], "scores": scores})
    file = write_rows(tmp_path / "out-of-fold.jsonl", told)
    settings = {"rows": path, "model": str(tiny_encoder), "device": "cpu"}
    found = audit(AuditConfig(**settings, out_of_fold=str(file)))
    assert {one["line"] for one in found["wrong_labels"]} == wrong
    assert found["accuracy"] == pytest.approx(171 / 180)
    told[6]["text"] = "another"
    write_rows(file, told)
    with pytest.raises(InputError, match="does not hold the rows that are audited: line 7 differs"):
        audit(AuditConfig(**settings, out_of_fold=str(file)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", sorted(WAYS))
def test_texts_of_every_task_are_compared(name, tiny_encoder, tmp_path):
    way = WAYS[name]
    rows = way.rows(30, 0)
    path, test = write_rows(tmp_path / "rows.jsonl", [*rows, rows[4]]), write_rows(tmp_path / "test.jsonl", rows[7:8])
    settings = {"rows": str(path), "test": str(test), "model": str(tiny_encoder), "device": "cpu"}
    found = audit(AuditConfig(**settings, task=way.task))
    assert [5, 31] in [one["lines"][:1] + one["lines"][-1:] for one in found["duplicates"]]
    assert ("same", 1) in [(one["kind"], one["line"]) for one in found["leaks"]]
    labelled = way.task in {"text-classification", "multi-label-classification", "relation-extraction"}
    assert (found["accuracy"] is not None) == labelled
    assert bool(found["notes"]) != labelled


@pytest.mark.usefixtures("one_thread")
def test_vectors_are_those_of_the_encoder(tiny_encoder, mean_checkpoint):
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["wake me", "rain"]
    for folder in (tiny_encoder, mean_checkpoint):
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        wanted = []
        for one in texts:
            with torch.no_grad():
                hidden = model(**tokenizer(one, return_tensors="pt", padding=False)).last_hidden_state[0].mean(0)
            wanted.append((hidden / hidden.norm()).numpy())
        found = Vectors(str(folder), device="cpu")([(one,) for one in texts])
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        pair = Vectors(str(folder), device="cpu")([tuple(texts)])[0]
        np.testing.assert_allclose(pair, np.concatenate(wanted) / np.sqrt(2), atol=1e-5)


def test_what_cannot_be_done_is_said(planted, tiny_encoder, tiny_bundle, tmp_path):
    path = planted[0]
    for arguments, message in (
        (["--swap", "he,she"], "--swap asks a trained model: name a checkpoint or a bundle with --target"),
        (["--swap", "he"], "a group has two words or more"),
        (["--slice-column", "who"], f"{path}: no row has the column 'who'"),
        (["--out", str(tmp_path / "no" / "x.jsonl")], "no such folder"),
        (["--html", str(tmp_path / "no" / "x.html")], "no such folder"),
        (["--task", "relation-extraction", "--target", str(tiny_bundle)], "<e1>"),
        (["--folds", "200"], "200 folds need so many different texts; there are 180"),
    ):
        result = CliRunner().invoke(main, ["audit", path, "--model", str(tiny_encoder), *arguments])
        assert result.exit_code == 1, result.output
        assert message in result.stderr.splitlines()[-1]
    task = SimpleNamespace(name="token-classification", problem_type=None)
    with pytest.raises(InputError, match="tasks that answer about a whole text, not token-classification"):
        swap_report(SimpleNamespace(task=task), [], "a,b", [("a", "b")])
