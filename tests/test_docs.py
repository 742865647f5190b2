"""Docs cannot drift: what the pages say is parsed, run, and compared with the code.

Every ``burnish …`` line in a block is parsed. In blocks marked ``sh`` it is also run, in a folder with the files that
CONTRIBUTING.md lists: the README's lines first, all of them, on a tiny encoder; then those of the other pages, but for
``train`` and ``export``, which take long. The lines of docs/results.md are parsed only.

    pytest tests/test_docs.py
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import click
import pytest
from click.testing import CliRunner

from burnish_serve import BurnishError, Manifest, Task
from burnish_serve.bundle import Variant
from burnish_serve.cli import VERBS, main
from burnish_train.config import TrainConfig, read_recipe
from tiny_model import make_encoder

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
CHINESE = ROOT / "README.zh.md"
LOGS = [ROOT / "CHANGELOG.md", ROOT / "bench" / "LOG.md"]
PAGES = [README, CHINESE, CONTRIBUTING, *LOGS, *sorted((ROOT / "docs").glob("*.md"))]
PARSED_ONLY = ROOT / "docs" / "results.md"
SLOW_VERBS = {"train", "search", "pretrain", "cross-validate", "soup", "compress", "export"}
# Put behind a line's own flags: as few measurements as there can be.
QUICK = {name: ["--seconds", "0", "--rounds", "1"] for name in ("bench", "tune")} | {"export": ["--seconds", "0.01"]}
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = {"positive": ("great film", "I love the music", "nice story"), "negative": ("dull film", "bad story", "slow")}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """A ``burnish …`` line of a page."""

    page: Path
    line: int
    language: str
    words: list[str]

    def __str__(self) -> str:
        """Return page, line and words, as a test's name."""
        return f"{self.page.name}:{self.line} {shlex.join(self.words)}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, found.start(2)) + 1, found[1], found[2])


def lines(block: Block) -> Iterator[tuple[int, str]]:
    """Yield the lines of a block with their numbers; one that goes on behind a backslash is one line."""
    start, whole = block.line, ""
    for number, line in enumerate(block.text.splitlines(), block.line):
        start = start if whole else number
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1]
        else:
            yield start, whole
            whole = ""


def commands(page: Path) -> Iterator[Command]:
    for block in blocks(page):
        for number, line in lines(block):
            if found := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?burnish (.+)", line):
                yield Command(page, number, block.language, shlex.split(found[1], comments=True))


ALL_COMMANDS = [command for page in PAGES for command in commands(page)]


def verb_named(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None, f"there is no verb {name!r}"
    return found


def flags_of(name: str) -> dict[str, str]:
    """Return the flags of a verb with their defaults, as the help tells them."""
    flags = {}
    for option in verb_named(name).params:
        if isinstance(option, click.Option):
            default = re.search(r"\[default: (.*)]$", option.help or "")
            flags |= dict.fromkeys([*option.opts, *option.secondary_opts], default[1] if default else "")
    return flags


def table_under(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    section = text.partition(f"{heading}\n")[2]
    assert section, f"there is no heading {heading!r}"
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None, f"there is no table under {heading!r}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[0].splitlines()[2:]]


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=str)
def test_every_command_parses(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *arguments = command.words
    known = flags_of(name)
    for word in arguments:
        assert not word.startswith("--") or word.partition("=")[0] in known, f"burnish {name} has no flag {word}"
    if command.language != "sh":
        return
    parsed = verb_named(name).make_context(name, arguments[: arguments.index("<")] if "<" in arguments else arguments)
    if name == "train":
        settings = {field.name: parsed.params[field.name] for field in dataclasses.fields(TrainConfig)}
        assert read_recipe(parsed.params["recipe"], **settings)


def test_there_are_commands_of_every_verb():
    assert {command.words[0] for command in ALL_COMMANDS} == set(VERBS)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, tiny_bundle) -> Path:
    """Return a folder with all that the pages' commands read, and what the README's commands made of it."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(tiny_bundle, folder / "bundle")
    shutil.copytree(ROOT / "train" / "recipes", folder / "train" / "recipes")
    make_encoder(folder / ENCODER)
    rows = [(f"{text}, {number}", label) for number in range(12) for label in TEXTS for text in TEXTS[label]]
    as_json = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
    as_csv = [f'"{text}",{label}\n' for text, label in rows]
    for name, wanted in (("train", as_json[12:]), ("test", as_json[:12]), ("labelled", as_json), ("rows", as_json)):
        (folder / f"{name}.jsonl").write_text("".join(wanted), encoding="utf-8")
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress("".join(as_json).encode()))
    (folder / "reviews.csv").write_text("review,sentiment\n" + "".join(as_csv), encoding="utf-8")
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text, _ in rows), encoding="utf-8")
    for command in commands(README):
        if command.language == "sh":
            run(command, folder)
    return folder


def run(command: Command, folder: Path) -> None:
    """Run a command in a folder, in this process, and see it end well."""
    words = [*command.words]
    given = b""
    if "<" in words:
        words, (source,) = words[: words.index("<")], words[words.index("<") + 1 :]
        given = (folder / source).read_bytes()
    with contextlib.chdir(folder), mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "cache")):
        done = CliRunner().invoke(main, [*words, *QUICK.get(words[0], [])], input=given)
    assert done.exit_code == 0, f"{command} ended with {done.exit_code}: {done.output}"
    if "--out" in words:
        assert (folder / words[words.index("--out") + 1]).exists(), f"{command} wrote no file"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in {README, CHINESE, PARSED_ONLY}], ids=lambda page: page.name
)
def test_commands_run(page, workshop):
    for command in commands(page):
        if command.language == "sh" and command.words[0] not in SLOW_VERBS:
            run(command, workshop)


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page.name}:{block.line}")
def test_python_runs(block, tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "bundle").symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, f"{block.page.name}:{block.line}", "exec"), {})  # noqa: S102  # our own page


def test_the_readme_has_python():
    assert any(block.page == README for block in PYTHON)


@pytest.mark.parametrize("name", VERBS)
def test_every_flag_stands_in_the_table_of_its_verb(name):
    heading = f"Flags of `burnish {name}`"
    (page,) = (page for page in PAGES if re.search(rf"^#+ {heading}$", page.read_text(encoding="utf-8"), re.MULTILINE))
    documented = {}
    for flags, default, meaning in table_under(page.read_text(encoding="utf-8"), heading):
        if other := re.match(r"all flags of `burnish ([\w-]+)` but (.*)", meaning):
            besides = re.findall(r"`(--[\w-]+)`", other[2])
            documented |= {flag: told for flag, told in flags_of(other[1]).items() if flag not in besides}
        else:
            documented |= dict.fromkeys(re.findall(r"`(--[\w-]+)`", flags), default.strip("`"))
    assert documented == flags_of(name)


def tree() -> list[str]:
    """Return the paths in the README's tree, folders with a slash behind."""
    (drawn,) = (block.text for block in blocks(README) if "pyproject.toml " in block.text)
    paths, above = [], []
    for line in drawn.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], name]
        paths.append("".join(above))
    return paths


def test_the_tree_names_nothing_that_is_not_there():
    missing = [path for path in tree() if not ((ROOT / path).is_dir() if path[-1] == "/" else (ROOT / path).is_file())]
    assert not missing


def test_the_tree_names_every_module_recipe_and_page():
    patterns = ("*/burnish_*/**/*.py", "bench/*.py", "train/recipes/*.toml", "docs/*.md")
    there = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    assert len(there) > 50
    assert there <= set(tree()), f"missing: {there - set(tree())}"


def test_the_tree_names_every_entry_of_the_top():
    git = shutil.which("git")
    tracked = subprocess.run([git or "git", "ls-files"], cwd=ROOT, capture_output=True, text=True) if git else None
    if tracked is None or tracked.returncode:
        pytest.skip("not a git checkout, so what belongs to the project is not known")
    there = {path.partition("/")[0] for path in tracked.stdout.splitlines()}
    assert there <= {path.partition("/")[0] for path in tree()}


def test_the_architecture_page_names_every_field_of_the_contracts():
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    for contract in (Manifest, Variant, Task):
        fields = {field.name for field in dataclasses.fields(contract)}
        assert fields <= named, f"{contract.__name__}: {fields - named}"


def test_the_readme_lists_every_exit_status():
    rows = table_under(README.read_text(encoding="utf-8"), "## Exit status")
    statuses, kinds = {0, 2}, [BurnishError]
    for kind in kinds:
        statuses.add(kind.exit_status)
        kinds += kind.__subclasses__()
    assert {int(row[0]) for row in rows} == statuses


def test_the_readme_lists_every_extra():
    rows = table_under(README.read_text(encoding="utf-8"), "## Install")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {row[0].strip("`") for row in rows} == set(project["optional-dependencies"])


def test_targets_of_make_exist_and_are_documented():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))
    shown = [line for page in PAGES for block in blocks(page) if block.language == "sh" for _, line in lines(block)]
    used = {found[1] for line in shown if (found := re.match(r"make (\w+)", line))}
    used |= set(re.findall(r"`make (\w+)", CONTRIBUTING.read_text(encoding="utf-8")))
    assert used == targets


def outline(page: Path) -> list[str]:
    """Return what a page has in every language: levels of headings, blocks, files that it links to, names in tables."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    levels = [heading[0] for heading in re.finditer(r"^#+", prose, re.MULTILINE)]
    rows = [row.split("|")[1].strip() for row in re.findall(r"^\|.*$", prose, re.MULTILINE)]
    names = [row for row in rows if re.search(r"`|\d", row)]
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", prose)]
    return [*levels, *(block.text for block in blocks(page)), *names, *sorted({*links} - {README.name, CHINESE.name})]


def test_the_chinese_readme_is_in_step_with_the_english():
    assert outline(CHINESE) == outline(README)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        assert not anchor or anchor in anchors(path), (
            f"{page.name} links to {target}#{anchor}; there are: {anchors(path)}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_path_of_a_machine(page):
    found = re.findall(r"(?<![\w./…~-])/(?:work|root|tmp|home|Users|mnt|opt)\b\S*", page.read_text(encoding="utf-8"))
    assert not found
