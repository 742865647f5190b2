"""The page that a training run leaves: its figures, its texts, and that it loads nothing from anywhere."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from burnish_serve import TASKS
from burnish_serve.runner import Runner
from burnish_serve.tasks import Decoding, Reading
from burnish_train import TrainConfig, checkpoint, result, train
from burnish_train.data import Example
from burnish_train.insight import markup, plots
from burnish_train.insight.answered import Answered
from burnish_train.insight.hardest import LOSSES, hardest, losses
from burnish_train.insight.report import report
from burnish_train.kinds import KINDS
from burnish_train.soup import soup
from tiny_model import write_rows
from tiny_tasks import WAYS
from training import record_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")
VOID = {"meta", "br"}
EVIL = "銀行 <script>alert(1)</script> & \"quoted\" 'too' $x^2$"


class Page(HTMLParser):
    """The tables by caption, the texts and the attributes of a page; an end of no open tag is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        within = self.open[-1] if self.open else ""
        if within == "caption":
            self._caption += data
        elif within in ("td", "th"):
            self._rows[-1][-1] += data
        if within not in ("style", "title"):
            self.text += data

    def table(self, beginning: str) -> list[list[str]]:
        """Return the rows of the one table whose caption begins so, without its head."""
        (rows,) = (rows for caption, rows in self.tables.items() if caption.startswith(beginning))
        return rows[1:]


def classified(count: int, rows: int, tmp_path: Path, *, decoding: Decoding | None = None, first: str = "") -> Answered:
    """Return rows of a classifier of so many labels that is right most of the time, and too sure of it."""
    random = np.random.default_rng(7)
    labels = tuple(sorted([*(f"label_{number:03}" for number in range(count - bool(first))), *([first] * bool(first))]))
    right = random.integers(0, count, rows)
    logits = random.normal(0, 1.5, (rows, count)).astype(np.float32)
    logits[np.arange(rows), right] += 5
    texts = [f"{first} text {number} {' and so on' * int(random.integers(1, 20))}" for number in range(rows)]
    pairs = zip(texts, right, strict=True)
    examples = [Example({"text": text}, (text,), labels[number], labels[number]) for text, number in pairs]
    config = TrainConfig(model="m", train="t", out=tmp_path)
    target = KINDS["text-classification"](TASKS["text-classification"], config, labels, examples)
    reading = Reading(labels=labels, decoding=decoding or Decoding())
    answers = target.task.decode(examples, logits, reading)
    metrics = target.task.score([example.right for example in examples], answers, reading)
    return Answered(
        reading=reading,
        target=target,
        train=examples * 2,
        examples=examples,
        asked=[],
        outputs=logits,
        answers=answers,
        metrics=metrics,
    )


@pytest.fixture
def record(tiny_checkpoint):
    """Return a function that gives the record of a real run with the labels and the scores of some answers."""

    def of(dev: Answered) -> dict[str, Any]:
        return {**record_of(tiny_checkpoint), "labels": list(dev.reading.labels), "metrics": {"dev": dev.metrics}}

    return of


def told(value: float) -> str:
    return f"{value:.4f}"


def calibration_error_by_hand(scores: Any, hits: Any) -> float:
    """Return the expected calibration error in 15 bins, row by row."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for score, hit in zip(scores.tolist(), hits.tolist(), strict=True):
        bins.setdefault(min(int(score * 15), 14), []).append((score, hit))
    gaps = [abs(sum(score for score, _ in some) - sum(hit for _, hit in some)) for some in bins.values()]
    return sum(gaps) / len(scores)


def test_77_labels_have_their_figures_from_scikit_learn(tmp_path, record):
    dev = classified(77, 1000, tmp_path)
    text = report(record(dev), dev)
    assert len(text.encode()) < 2e6
    page = Page(text)
    right = [example.right for example in dev.examples]
    found = [answer["label"] for answer in dev.answers]
    labels = list(dev.reading.labels)
    counts = confusion_matrix(right, found, labels=labels)
    wrong = int(counts.sum() - counts.trace())
    assert 50 < wrong < 500
    assert f"1000 dev rows, {wrong} of them answered wrongly" in page.text
    pairs = page.table("The 25 of ")
    assert len(pairs) == 25
    off = counts - np.diag(np.diag(counts))
    assert [int(pair[2]) for pair in pairs] == sorted(off.ravel().tolist(), reverse=True)[:25]
    for one, other, rows, line, shown in pairs:
        assert int(rows) == counts[labels.index(one), labels.index(other)]
        assert (right[int(line) - 1], found[int(line) - 1]) == (one, other)
        assert dev.examples[int(line) - 1].texts[0].startswith(shown.rstrip("…"))
    per_class = precision_recall_fscore_support(right, found, labels=labels, zero_division=0)
    expected = {label: [told(column[i]) for column in per_class[:3]] for i, label in enumerate(labels)}
    lines = page.table("Dev scores of each label")
    assert {line[0]: line[3:6] for line in lines} == expected
    assert [line[5] for line in lines] == sorted(line[5] for line in lines), "worst first"
    assert {line[0]: int(line[2]) for line in lines} == {label: right.count(label) for label in labels}
    assert {line[0]: int(line[1]) for line in lines} == {label: 2 * right.count(label) for label in labels}
    scores = np.array([answer["score"] for answer in dev.answers])
    error = calibration_error_by_hand(scores, np.array(right) == np.array(found))
    assert f"in 15 bins: as it is {told(error)}." in page.text
    assert page.table("Scores")[-1][:2] == ["calibration_error", told(error)]
    bins = page.table("Answers by their score")
    assert sum(int(one[2]) for one in bins) == 1000


def test_the_matrix_is_drawn_as_it_is():
    axes = Figure().add_subplot()
    plots.matrix(axes, np.array([[3, 1], [0, 0]]), ["a", "b"])
    paint = axes.images[0].get_array()
    shown = (paint[..., 3] * 100).round().astype(int).tolist()
    assert shown == [[84, 51], [0, 0]]
    assert paint[0, 0, 2] > paint[0, 0, 0], "blue where it is right"
    assert paint[0, 1, 0] > paint[0, 1, 2], "orange where it is wrong"


def test_few_labels_have_a_matrix_of_numbers(tmp_path, record):
    dev = classified(4, 200, tmp_path)
    page = Page(report(record(dev), dev))
    matrix = page.table("Rows by right label and answer")
    right, found = [one.right for one in dev.examples], [one["label"] for one in dev.answers]
    assert [[int(cell) for cell in line[1:]] for line in matrix] == confusion_matrix(right, found).tolist()
    assert [line[0] for line in matrix] == list(dev.reading.labels)


def test_calibration_before_and_after_a_temperature(tmp_path, record):
    dev = classified(5, 300, tmp_path, decoding=Decoding(temperature=2.5, reject_label="oos", reject_below=0.3))
    outside = dev.examples[0]
    examples = [Example(outside.asked, outside.texts, "oos", "oos"), *dev.examples[1:]]  # no row of train has it
    dev = Answered(**{**vars(dev), "examples": examples})
    page = Page(report(record(dev), dev))
    hits = dev.outputs[1:].argmax(1) == [dev.reading.labels.index(one.right) for one in examples[1:]]
    before, after = (torch.tensor(dev.outputs[1:].astype(float) / t).softmax(1).amax(1).numpy() for t in (1, 2.5))
    errors = [told(calibration_error_by_hand(scores, hits)) for scores in (before, after)]
    assert f"before {errors[0]}, after {errors[1]}." in page.text
    assert "The temperature fitted on these rows is 2.5000." in page.text
    axes = Figure().add_subplot()
    plots.reliability(axes, {"before": [(0.5, 0.25, 4)], "after": [(0.3, 0.25, 4)]})
    assert [line.get_xydata().tolist() for line in axes.lines[1:]] == [[[0.5, 0.25]], [[0.3, 0.25]]]
    assert len(hardest(dev, 1000)) == 299, "the label that the model does not know has no loss"


def test_texts_and_labels_are_text_and_no_markup(tmp_path, record):
    dev = classified(5, 60, tmp_path, first=EVIL)
    own = {**record(dev), "warnings": [EVIL], "base_model": EVIL}
    own["settings"] = {**own["settings"], "model": EVIL}
    text = report(own, dev)
    assert "<script" not in text
    page = Page(text)
    assert EVIL in [line[0] for line in page.table("Dev scores of each label")]
    assert EVIL in [line[1] for line in page.table("Settings other")]
    assert page.text.count(EVIL) > 10
    many = classified(30, 60, tmp_path, first=EVIL)
    text = report({**own, "labels": list(many.reading.labels)}, many)
    assert "<script" not in text
    assert "銀行 &lt;script&gt;alert(1)&lt;/script&gt;" in text[text.index("<svg") :]


def assert_alone(text: str) -> None:
    """Hold that a page loads nothing, names each id once, and says what its pictures show."""
    page = Page(text)
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "action", "background", "onload")
        if name.endswith("href"):
            assert value.startswith(("#", "data:image/png;base64,"))
        assert "http:" not in value, value
        assert "https:" not in value, value
    assert not re.search(r"url\((?!#)|@import|<link|<iframe|<object", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in text
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    links = [value[1:] for name, value in page.attributes if name.endswith("href") and value[0] == "#"]
    links += re.findall(r"url\(#([^)]+)\)", text)
    assert set(links) <= set(ids)
    assert text.count("<svg") == text.count('role="img" aria-label="')
    assert not set(plots.COLORS) & set(re.findall(r"#\w{6}", text)), "a colour of the page's own is left out"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_leaves_a_page_with_its_hardest_rows(name, tiny_settings, tmp_path, monkeypatch):
    way = WAYS[name]
    files = {
        part: str(write_rows(tmp_path / f"{part}.jsonl", way.rows(24, seed)))
        for seed, part in enumerate(("train", "dev"))
    }
    settings = {**tiny_settings, "test": None, "max_length": 32, **way.settings, **files, "num_train_epochs": 1.0}
    seen, runs = [], []
    own, outputs = result.report.write, Runner.outputs
    monkeypatch.setattr(result.report, "write", lambda path, record, dev: (seen.append(dev), own(path, record, dev)))
    monkeypatch.setattr(Runner, "outputs", lambda self, asked: (runs.append(len(asked)), outputs(self, asked))[1])
    train(TrainConfig(**{**settings, "task": way.task, "out": tmp_path / "run"}))
    assert sum(runs) == 2 * 24, "the dev rows were answered once for the epoch, and once for the end"
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert_alone(text)
    page, (dev,) = Page(text), seen
    curve = [point for point in record_of(tmp_path / "run")["curve"] if "eval_loss" in point]
    metric = TASKS[way.task].metric
    assert page.table("Evaluations")[0] == [
        str(curve[0]["step"]),
        "1.0000",
        told(curve[0]["eval_loss"]),
        markup.number(curve[0][f"eval_{metric}"]),
    ]
    if way.task == "fill-mask":
        assert way.task not in LOSSES
        return
    model = checkpoint.load_model(tmp_path / "run")
    runner, target = checkpoint.opened(tmp_path / "run", model), dev.target
    logits = dev.reading.decoding.temperature
    found = losses(dev)
    for example, row, loss in zip(dev.examples, dev.asked, found, strict=True):
        batch = target.batch(target.items([example], [row]), runner.inputs, runner.pad_token_id)
        labels = batch.pop("labels")
        with torch.no_grad():
            outputs_of_row = model(**batch)
            if logits != 1:
                outputs_of_row.logits /= logits
            assert loss == pytest.approx(float(target.loss(outputs_of_row, labels, batch)), rel=1e-4, abs=1e-6)
    rows = page.table("Hardest")
    assert [float(row[1]) for row in rows] == pytest.approx(sorted(found, reverse=True), rel=1e-2, abs=1e-4)
    lines = rows_of(tmp_path / "run" / "dev.jsonl")
    for row in rows:
        line = lines[int(row[0]) - 1]
        words = " ".join(line["tokens"]) if "tokens" in line else next(iter(line.values()))
        assert re.sub(r"</?e\d>", " ", words).split()[0] in row[2]


def test_right_answers_in_words(tmp_path):
    def dev(task: str, right: Any, answer: Any, *texts: str) -> Answered:
        target = type("Target", (), {"task": TASKS[task]})
        return Answered(
            reading=Reading(),
            target=target,
            train=(),
            examples=[Example({}, texts, right)],
            asked=[],
            outputs=None,
            answers=[answer],
            metrics={},
        )

    def words(*given: Any) -> tuple[str, str]:
        one = dev(*given)
        return one.told_right(0), one.told_answer(0)

    span = {"entity_group": "PER", "score": 0.9, "word": "ada", "start": 0, "end": 3}
    assert words("token-classification", ((0, 3, "PER"),), [span], "Ada met") == ("PER: Ada", "PER: Ada (0.900)")
    assert words("token-classification", (), [], "Ada met") == ("none", "none")
    assert words("regression", 2.0, {"label": "score", "score": 1.25}, "a") == ("2", "1.250")
    assert words("feature-extraction", 2.0, {"score": 0.5}, "a", "b") == ("2", "0.500")
    many = [{"label": "joy", "score": 0.8}, {"label": "awe", "score": 0.6}]
    assert words("multi-label-classification", frozenset({"joy", "awe"}), many, "a") == (
        "awe\njoy",
        "joy (0.800)\nawe (0.600)",
    )
    none = {"score": 0.7, "start": 0, "end": 0, "answer": ""}
    assert words("question-answering", (), none, "who", "Ada") == ("no answer", "no answer (0.700)")
    gold = type("Gold", (), {"text": "Ada", "start": 2000})
    long = dev("question-answering", (gold,), none, "who", "x" * 2000 + "Ada" + "y" * 2000).told_text(0)
    assert long.startswith("who\n…xxx")
    assert "xAday" in long
    assert len(long) < 320
    assert dev("regression", 1.0, {}, "one", "other").told_text(0) == "one\nother"


def test_a_run_without_dev_rows_has_a_page_too(train_config, tmp_path):
    train(train_config(dev_fraction=0.0, test=None, num_train_epochs=0.2))
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert_alone(text)
    page = Page(text)
    assert "There were no dev and no test rows to score on." in page.text
    assert "Hardest" not in page.text
    settings = {line[0]: line[1:] for line in page.table("Settings other")}
    assert settings["--num-train-epochs"] == ["0.2", "3.0"]
    assert "--weight-decay" not in settings


def test_a_soup_tells_of_its_members(tiny_checkpoint, tmp_path):
    members = [tiny_checkpoint, Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))]
    made = soup(members, tmp_path / "soup", device="cpu")
    text = (tmp_path / "soup" / "report.html").read_text(encoding="utf-8")
    assert_alone(text)
    page = Page(text)
    assert [line[0] for line in page.table("Members")] == list(map(str, members))
    assert page.table("Scores")[0][1].startswith(told(made["metrics"]["dev"]["accuracy"]))
    assert "Learning rate" not in page.text


def test_the_curve_and_the_scatter_show_the_figures(tiny_checkpoint):
    points = record_of(tiny_checkpoint)["curve"]
    axes = Figure().add_subplot()
    plots.losses(axes, points)
    for line, key in zip(axes.lines, ("loss", "eval_loss"), strict=True):
        assert line.get_xydata().tolist() == [[point["step"], point[key]] for point in points if key in point]
    axes = Figure().add_subplot()
    plots.scores(axes, points, "accuracy", 28)
    kept = next(point["eval_accuracy"] for point in points if point["step"] == 28 and "eval_accuracy" in point)
    assert axes.lines[1].get_xydata().tolist() == [[28, kept]]
    axes = Figure().add_subplot()
    wanted = np.arange(5000.0)
    plots.scatter(axes, wanted, wanted + 1)
    assert len(axes.lines[0].get_xydata()) <= plots.MOST_POINTS
    assert (np.diff(axes.lines[0].get_xydata(), axis=1) == 1).all()


def test_a_page_reads_well_at_any_width_and_asks_nobody(tmp_path, record):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'burnish[dev]' brings playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    dev = classified(30, 200, tmp_path)
    path = tmp_path / "report.html"
    path.write_text(report(record(dev), dev), encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        asked: list[str] = []
        inks = []
        for scheme in ("light", "dark"):
            with browser.new_context(color_scheme=scheme, viewport={"width": 320, "height": 800}) as context:
                page = context.new_page()
                page.on("request", lambda request: asked.append(request.url))
                page.on("pageerror", lambda error: asked.append(str(error)))
                page.on("console", lambda message: asked.append(message.text))
                page.goto(path.as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= 320
                assert page.get_by_role("img").count() == 5
                assert page.get_by_role("row", name="accuracy").count() == 1
                inks.append(page.evaluate("getComputedStyle(document.querySelector('svg text')).fill"))
        browser.close()
    assert all(url.startswith(("file://", "data:image/png")) for url in asked), asked
    assert inks[0] != inks[1], "letters of plots go with the paper"
