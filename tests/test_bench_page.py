"""``burnish bench --html``: one page that needs nothing from anywhere and shows the figures of the JSON."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from burnish_bench import table
from burnish_bench.cli import bench as command
from burnish_bench.page import _cells, _scores, _speeds, page

TINY = Path(__file__).parent / "tiny_bundle"
# Tags of HTML that have no end.
VOID = {"meta", "br"}


class Page(HTMLParser):
    """The cells, texts and attributes of a page; an end of another tag than the last open one is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Return the JSON and the page of one run with a sweep of four cells and a latency of 20 calls."""
    place = tmp_path_factory.mktemp("page") / "found.html"
    quick = (
        "--rounds",
        "6",
        "--seconds",
        "0.2",
        "--batch-sizes",
        "1,2",
        "--lengths",
        "4,16",
        "--threads",
        "1",
        "--no-cold-start",
    )
    result = CliRunner().invoke(command, [str(TINY), *quick, "--html", str(place), "--json"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    return json.loads(result.stdout), place.read_text(encoding="utf-8")


def scored(data: dict[str, Any]) -> dict[str, Any]:
    """Return figures with a score for each variant, which the tiny bundle has none of."""
    found = copy.deepcopy(data)
    for number, one in enumerate(found["variants"].values()):
        one["score"] = 0.9 - number / 100
    return found


def test_the_page_holds_tables_notes_and_json(made: tuple[dict[str, Any], str]) -> None:
    data, text = made
    found = Page(text)
    tables = [rows for _, rows in table.tables(data)]
    assert len(tables) == 2
    assert found.cells == [cell for rows in tables for row in rows for cell in row]
    notes, figures = found.texts["pre"]
    assert notes == table.notes(data)
    assert json.loads(figures) == data
    assert text == page(data)  # the same for the same figures


def test_four_plots_are_described_and_named(made: tuple[dict[str, Any], str]) -> None:
    assert made[1].count("<svg") == 3  # there is no score to show
    data = scored(made[0])
    text = page(data)
    assert text.count("<svg") == text.count("</svg>") == text.count('role="img"') == 4
    found = Page(text)
    assert len(found.texts["figcaption"]) == 4
    assert {("aria-label", said) for said in found.texts["figcaption"]} <= set(found.attributes)
    for words in ("texts a second", "accuracy", "ms, p50 of one text", "texts a batch", *data["variants"]):
        assert f">{words}</text>" in text


def test_nothing_comes_from_another_place(made: tuple[dict[str, Any], str]) -> None:
    _, text = made
    for name, value in Page(text).attributes:
        assert name not in ("src", "action", "onload")
        assert not name.endswith("href") or (value or "").startswith("#")
    assert "<script" not in text
    assert not re.search(r"url\((?!#)|@import", text)


def test_the_plots_show_the_figures(made: tuple[dict[str, Any], str]) -> None:
    data = scored(made[0])
    axes = Figure().add_subplot()
    _cells(axes, data, "length", "median_ms", batch_size=2)
    for line, (name, found) in zip(axes.lines, data["variants"].items(), strict=True):
        assert line.get_label() == name
        expected = [[cell["length"], cell["median_ms"]] for cell in found["sweep"] if cell["batch_size"] == 2]
        assert line.get_xydata().tolist() == expected
    axes = Figure().add_subplot()
    _speeds(axes, {**data, "peers": {"other": {"throughput": {"texts_per_second": 3.0, "low": None, "high": None}}}})
    speeds = [found["throughput"]["texts_per_second"] for found in data["variants"].values()]
    assert [bar.get_width() for bar in axes.patches] == [*speeds, 3.0]
    axes = Figure().add_subplot()
    _scores(axes, data)
    expected = [[found["latency"]["p50_ms"], found["score"]] for found in data["variants"].values()]
    assert [line.get_xydata().tolist()[0] for line in axes.lines] == expected


def test_what_is_withheld_is_left_out(made: tuple[dict[str, Any], str]) -> None:
    data = copy.deepcopy(made[0])
    for found in data["variants"].values():
        found["latency"]["p50_ms"], found["sweep"] = None, []
        found["throughput"]["low"] = found["throughput"]["high"] = None
    assert page(data).count("<svg") == 1


def test_names_are_text_and_no_markup(made: tuple[dict[str, Any], str]) -> None:
    data = copy.deepcopy(made[0])
    data["bundle"] = "<script>alert(1)</script>&"
    data["variants"] = {f"<b>{name}&$x^2$": found for name, found in data["variants"].items()}
    text = page(data)
    assert "<script" not in text
    assert "<b>" not in text
    assert "".join(Page(text).texts["h1"]) == data["bundle"]
    assert "$x^2$</text>" in text  # no formula


def test_a_page_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(TINY), "--html", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"--html is to be a file, and {tmp_path} is a folder" in result.stderr
