"""What ``burnish explain`` shows: in a terminal, as a page, as rows; and that a text stays a text in each."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from burnish_serve import explain, load
from burnish_serve.cli import main
from burnish_serve.cli.explain import shown
from burnish_serve.explaining.page import page
from burnish_serve.rows import read_rows

EVIL = 'great <script>alert("film")</script> & <b>dull</b>'


class Read(HTMLParser):
    """The tags of a page, and what is written in its texts and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self.titles = [], [], []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.titles += [value for name, value in attributes if name == "title"]
        if ("class", "text") in attributes:
            self.inside = True
            self.texts.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "p"

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


def test_the_page_holds_the_texts_and_nothing_that_runs(tiny_model):
    texts = [EVIL, " dull\n\n重置  film ", ""]
    found = explain(tiny_model, texts)
    made = page(found, "<bundle>", "occlusion")
    read = Read(made)
    assert read.texts == texts
    assert "script" not in read.tags
    assert "b" not in read.tags
    assert not re.search(r"(src|href|url\(|@import|https?:)", made)
    numbers = [f"{word['weight']:+.3f}" for one in found for word in one.words]
    assert read.titles == numbers
    assert read.tags.count("table") == 3
    assert [row for row in numbers if f"<td>{row}</td>" not in made] == []
    assert 'class="for"' in made
    assert 'class="against"' in made
    assert "&lt;bundle&gt;" in made


def test_plain_text_has_signed_numbers_and_colours_have_none(tiny_model):
    (found,) = explain(tiny_model, ["a great film, not dull"], by="mask")
    label, plain = f"{found.answer['label']} {found.answer['score']:.4f}", shown(found, coloured=False)
    told = " ".join(f"{word['word']}({word['weight']:+.2f})" for word in found.words)
    assert plain == f"{label}\n  {told}"
    assert "(+0.00)" in plain
    assert re.search(r"\(-\d", plain)
    coloured = shown(found, coloured=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == f"{label}\n  a great film, not dull"
    styles = dict(re.findall(r"((?:\x1b\[[\d;]*m)+)([^\x1b]+)", coloured.replace("\x1b[0m", ""))[::-1])
    assert any("\x1b[32m" in style and "\x1b[4m" not in style for style in styles)
    assert any("\x1b[31m" in style and "\x1b[4m" in style for style in styles)
    assert "\x1b" not in coloured.splitlines()[0]
    assert coloured.splitlines()[1].startswith("  a ")


def on_terminal(command, environment, *arguments, **more):
    """Return what the command writes to a terminal."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [command, *map(str, arguments)], stdout=theirs, stderr=subprocess.DEVNULL, env={**environment, **more}
        )
        os.close(theirs)
        assert done.returncode == 0
        return os.read(ours, 65536).decode()
    finally:
        os.close(ours)


def test_a_terminal_gets_colours_unless_they_are_declined(command, environment, tiny_bundle):
    asked = ("explain", tiny_bundle, "--text", "a great film")
    environment = {name: value for name, value in environment.items() if name != "NO_COLOR"}
    assert "\x1b[" in on_terminal(command, environment, *asked)
    plain = on_terminal(command, environment, *asked, NO_COLOR="1")
    assert "\x1b[" not in plain
    assert re.search(r"great\(\+\d\.\d\d\)", plain)


# The verb.


def test_the_command_writes_rows_a_page_and_one_object(run_burnish, tiny_bundle, tmp_path):
    rows = [{"id": 7, "review": "a great film 🙂"}, {"id": 8, "review": EVIL, "words": "replaced"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, html = tmp_path / "out.jsonl", tmp_path / "page.html"
    flags = ("--data", tmp_path / "rows.jsonl", "--text-column", "review", "--variant", "fp32", "--device", "cpu")
    done = run_burnish("explain", tiny_bundle, *flags, "--out", out, "--html", html, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    expected = explain(load(tiny_bundle, variant="fp32"), [row["review"] for row in rows])
    written = [row for _, row in read_rows(out)]
    assert written == [{**row, **one.told()} for row, one in zip(rows, expected, strict=True)]
    assert [list(word) for row in written for word in row["words"]] == [["word", "start", "end", "weight"]] * 8
    assert report == {
        "task": "text-classification",
        "rows": 2,
        "method": "occlusion",
        "variant": "fp32",
        "provider": "CPUExecutionProvider",
        "explanations": written,
    }
    assert html.read_text(encoding="utf-8") == page(expected, str(tiny_bundle), "occlusion")


@pytest.mark.parametrize(("flags", "method"), [((), "gradients"), (("--method", "occlusion"), "occlusion")])
def test_the_command_opens_a_checkpoint(tiny_checkpoint, one_thread, flags, method):
    done = CliRunner().invoke(main, ["explain", str(tiny_checkpoint), "--text", "please wake me", "--json", *flags])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    (row,) = report["explanations"]
    assert report["method"] == method
    assert row["answer"]["label"] == "alarm"
    assert max(row["words"], key=lambda word: word["weight"])["word"] == "wake"
    assert ("convergence_delta" in row) is (method == "gradients")


WRONG = [
    (("--text", "a", "--label", "tea"), 1, "the label 'tea' is unknown to the model; known are: 'negative'"),
    (("--text", "a", "--method", "gradients"), 1, "a bundle has no gradients"),
    (("--text", "a", "--out", "nowhere/rows.jsonl"), 1, "no such folder: nowhere"),
    (("--text", "a", "--html", "nowhere/page.html"), 1, "no such folder: nowhere"),
    (("--data", "none.jsonl"), 1, "no such file: none.jsonl"),
    ((), 2, "give either --data"),
    (("--text", "a", "--data", "rows.jsonl"), 2, "give either --data"),
]


@pytest.mark.parametrize(("flags", "status", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_wrong_use_is_one_sentence(invoke, flags, status, message):
    done = invoke(*flags)
    assert done.exit_code == status
    assert message in done.stderr
    assert "Traceback" not in done.output


@pytest.fixture
def invoke(tiny_bundle, monkeypatch, tmp_path):
    """Return a function that runs the verb on the tiny bundle in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: CliRunner().invoke(main, ["explain", str(tiny_bundle), "--device", "cpu", *flags])


def test_a_file_without_rows_leaves_nothing_behind(invoke, tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    done = invoke("--data", "rows.jsonl", "--out", "out.jsonl", "--html", "page.html")
    assert (done.exit_code, done.stderr) == (1, "burnish: rows.jsonl has no rows\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "great"}\n{"txt": "dull"}\n')
    done = invoke("--data", "rows.jsonl", "--out", "out.jsonl", "--html", "page.html")
    assert "rows.jsonl:2: no column 'text'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
