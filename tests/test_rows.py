"""Rows are what users bring: no format may lose any of them, and what cannot be read is said with its line."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve.errors import InputError
from burnish_serve.rows import count_rows, field_text, format_of, read_rows
from burnish_serve.writing import RowWriter

ENDINGS = [".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".jsonl.zst", ".csv.gz", ".tsv.zst"]
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
# A byte order mark before the first column is no part of its name.
columns = st.text(min_size=1).filter(lambda name: not name.startswith("\ufeff"))


def read(path: Path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def round_trip(name: str, rows: list[dict]) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with RowWriter(path) as writer:
            writer.write(rows[:2])
            writer.write(rows[2:])
        return read(path)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=4), min_size=1, max_size=6))
def test_json_lines_come_back_as_they_were_written(rows):
    assert round_trip("rows.jsonl", rows) == rows


@given(st.data(), st.sampled_from([".csv", ".tsv"]))
def test_csv_comes_back_as_it_was_written(data, ending):
    names = data.draw(st.lists(columns, min_size=1, max_size=3, unique=True))
    rows = data.draw(st.lists(st.fixed_dictionaries({name: st.text() for name in names}), min_size=1, max_size=5))
    assert round_trip(f"rows{ending}", rows) == rows


@pytest.mark.parametrize(
    "text", ["a\rb", "a\r\nb", "\n", '"', ' "a" ', "a\tb", "a,b", "", "\x00", "\u2028", "naïve 😀"]
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_text_survives_in_every_format(text, ending):
    rows = [{"text": text, "id": "1"}, {"text": "x", "id": text}]
    assert round_trip(f"rows{ending}", rows) == rows


@given(
    st.lists(
        st.fixed_dictionaries({"text": st.text(), "id": st.none() | st.integers(-(2**63), 2**63 - 1)}),
        min_size=1,
        max_size=5,
    ).filter(lambda rows: rows[0]["id"] is not None)
)
def test_parquet_comes_back_as_it_was_written(rows):
    assert round_trip("rows.parquet", rows) == rows


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), min_size=1, max_size=8))
def test_plain_text_gives_a_row_for_each_line_that_is_not_blank(lines):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.txt"
        path.write_bytes("\n".join(["first", *lines]).encode())
        expected = [(n, {"text": line}) for n, line in enumerate(["first", *lines], 1) if line.strip()]
        assert list(read_rows(path)) == expected


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".jsonl", b'{"text": "a", "label": "b"}\n'),
        (".ndjson", b'{"text": "a", "label": "b"}'),
        (".jsonl", b'\n  \n{"text": "a", "label": "b"}\r\n\r\n'),
        (".csv", b"text,label\r\na,b\r\n"),
        (".csv", b'"text",label\n\n"a",b'),
        (".tsv", b"text\tlabel\na\tb\n"),
        (".CSV", b"text,label\na,b\n"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_files_as_other_programs_write_them(tmp_path, ending, content, mark):
    path = tmp_path / f"rows{ending}"
    path.write_bytes(mark + content)
    assert read(path) == [{"text": "a", "label": "b"}]


def test_line_numbers_are_those_of_the_file(tmp_path):
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    lines.write_text('{"n": 1}\n\n{"n": 2}\n')
    table.write_text('text,n\n"two\nlines",1\nb,2\n')
    assert [number for number, _ in read_rows(lines)] == [1, 3]
    assert list(read_rows(table)) == [(3, {"text": "two\nlines", "n": "1"}), (4, {"text": "b", "n": "2"})]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', [(1, {"text": "a"}), (2, {"text": "b"})]),
        (b'\n\xef\xbb\xbf\n{"text": "a"}\n', None),
        (b"a\n\nb\n", [(1, {"text": "a"}), (3, {"text": "b"})]),
        (b"a\n{b}\n", [(1, {"text": "a"}), (2, {"text": "{b}"})]),
        (b"", []),
    ],
    ids=["json lines", "mark inside", "text", "text with braces", "empty"],
)
def test_standard_input_is_told_by_its_first_line(monkeypatch, content, rows):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    if rows is None:
        assert [number for number, _ in read_rows("-")][-1] == 3
    else:
        assert list(read_rows("-")) == rows


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"text": \n', r"a\.jsonl:2: not a JSON object"),
        ("a.jsonl", b'\n["text"]\n', r"a\.jsonl:2: not a JSON object but list"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "\xff"}\n', r"a\.jsonl:2: not UTF-8 text \(byte 11 "),
        ("a.jsonl", b'{"n": ' + b"1" * 5000 + b"}\n", r"a\.jsonl:1: not a JSON object"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not a JSON object"),
        ("a.jsonl", '{"text": "ok"}'.encode("utf-16"), r"a\.jsonl:1: not UTF-8 text"),
        ("a.csv", b"text,label\na,b\nc\n", r"a\.csv:3: 1 fields where the header has 2"),
        ("a.csv", b'text,label\n"a\nb",c\nd,e,f\n', r"a\.csv:4: 3 fields where the header has 2"),
        ("a.csv", b'text,label\n"a,b\n', r"a\.csv:2: "),
        ("a.csv", b"text,label\na,b\n\xe9,b\n", r"a\.csv:3: not UTF-8 text \(byte 1 "),
        ("a.csv", b"text,label,text\na,b,c\n", r"a\.csv:1: .*'text'"),
        ("a.txt", b"ok\nca\xe9\n", r"a\.txt:2: not UTF-8 text \(byte 3 "),
        ("a.parquet", b"", r"a\.parquet: not a Parquet file"),
        ("a.parquet", b"PAR1 and then nothing PAR1", r"a\.parquet: not a Parquet file"),
    ],
)
def test_what_cannot_be_read_is_said_with_file_and_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read(tmp_path / name)


def test_a_parquet_file_with_damaged_pages_is_an_input_error(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["great film " * 50] * 500}), path)
    whole = path.read_bytes()
    for place in (*range(4, 40, 3), *range(len(whole) - 200, len(whole), 20)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read(path)
        except InputError as error:
            assert "rows.parquet" in str(error)  # noqa: PT017  # damage to unused bytes is no error


def test_parquet_text_that_is_not_utf8_is_an_input_error(tmp_path):
    offsets, data = b"\0\0\0\0\1\0\0\0", b"\xff"
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(data)])
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet: "):
        read(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.jsonl", "no such file: .*missing.jsonl"),
        ("folder.csv", "folder.csv is a folder"),
        ("rows.xlsx", r"cannot tell the format from the ending '.xlsx'; known are .jsonl .*\.txt"),
        ("rows", "cannot tell the format from the ending ''"),
    ],
)
def test_files_that_are_not_there_or_not_known(tmp_path, name, said):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=said):
        read(tmp_path / name)


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\nnot json\n')
    rows = read_rows(path)
    assert next(rows) == (1, {"n": 1})
    with pytest.raises(InputError, match=":2:"):
        next(rows)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("older", [None, "the older file"])
@pytest.mark.parametrize("written", [0, 1])
def test_a_writer_that_fails_leaves_nothing_behind_and_keeps_an_older_file(tmp_path, ending, older, written):
    path = tmp_path / f"out{ending}"
    if older:
        path.write_text(older)
    with pytest.raises(RuntimeError, match="halfway"), RowWriter(path) as writer:  # noqa: PT012  # a part is written first
        writer.write([{"text": "a"}] * written)
        raise RuntimeError("halfway")
    assert [file.read_text() for file in tmp_path.iterdir()] == ([older] if older else [])


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_file_appears_under_its_name_only_when_it_is_whole(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    with RowWriter(path) as writer:
        writer.write([{"text": "a"}])
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


ANSWERS = [{"label": "positive", "score": 0.75}, [{"label": "é", "score": 1.0}, {"label": "b", "score": 0.0}]]


@pytest.mark.parametrize("answer", ANSWERS, ids=["best", "several"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_answers_are_objects_in_json_lines_and_json_text_elsewhere(answer, ending):
    (row,) = round_trip(f"rows{ending}", [{"text": "a", "answer": answer}])
    assert (row["answer"] if ending.startswith(".jsonl") else json.loads(row["answer"])) == answer


def test_standard_output_gets_json_lines(capsys):
    with RowWriter(None) as writer:
        writer.write([{"text": "é", "answer": ANSWERS[0]}])
    assert capsys.readouterr().out == '{"text": "é", "answer": {"label": "positive", "score": 0.75}}\n'


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_half_a_surrogate_pair_beside_the_text_does_not_stop_the_writer(ending):
    (row,) = round_trip(f"rows{ending}", [{"text": "a", "id": "\ud800"}])
    assert row["text"] == "a"


@pytest.mark.parametrize(
    ("first", "second"), [(None, 1), (1, 2.5), (1, "x")], ids=["none, number", "whole, fraction", "number, text"]
)
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
def test_parquet_columns_of_mixed_type_are_written_or_refused_by_name(tmp_path, first, second, together):
    batches = [[{"mixed": first}, {"mixed": second}]] if together else [[{"mixed": first}], [{"mixed": second}]]
    path = tmp_path / "out.parquet"
    try:
        with RowWriter(path) as writer:
            for batch in batches:
                writer.write(batch)
    except InputError as error:
        assert "mixed" in str(error)  # noqa: PT017  # refusing is as good as writing
        assert not path.exists()
    else:
        assert [row["mixed"] for row in read(path)] == [first, second]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out.txt", "answers are written as .jsonl, .csv, .tsv or .parquet"),
        ("-", "answers are written as"),
        ("out.doc", "cannot tell the format"),
        ("no folder/out.csv", "no such folder: .*no folder"),
        ("folder.jsonl", "folder.jsonl is a folder"),
    ],
)
def test_files_that_cannot_be_written_are_said_before_the_work(tmp_path, name, said):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=said):
        RowWriter(name if name == "-" else tmp_path / name)


@pytest.mark.parametrize(("row", "said"), [({"n": 1}, "no column 'text'.*'n'"), ({"text": 3}, "must hold text, not 3")])
def test_a_row_without_text_is_said_with_its_place(row, said):
    with pytest.raises(InputError, match=f"rows.csv:7: .*{said}"):
        field_text(row, "text", "rows.csv:7")


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_are_counted_for_the_bar(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    with RowWriter(path) as writer:
        writer.write([{"text": str(n)} for n in range(7)])
    assert count_rows(path) == 7 + ending.startswith((".csv", ".tsv"))
    assert count_rows(tmp_path / f"missing{ending}") is None
    assert format_of(path) == ending.split(".")[1]


# Compressed files, and lines that are passed over


def test_compressed_files_are_what_other_programs_write_and_read(tmp_path):
    lines = "".join(f'{{"n": {n}}}\n' for n in range(5000)).encode()
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(lines)
    with pyarrow.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as stream:
        stream.write(lines)
    for ending in (".gz", ".zst"):
        rows = read(tmp_path / f"a.jsonl{ending}")
        assert [row["n"] for row in rows] == list(range(5000))
        path = tmp_path / f"b.jsonl{ending}"
        with RowWriter(path) as writer:
            for start in range(0, 5000, 1000):  # each a block of its own
                writer.write(rows[start : start + 1000])
        with pyarrow.input_stream(str(path), compression="gzip" if ending == ".gz" else "zstd") as stream:
            assert stream.read() == lines


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.zst"])
@pytest.mark.parametrize("harm", ["cut", "other"])
def test_a_damaged_compressed_file_is_said(tmp_path, name, harm):
    path = tmp_path / name
    with RowWriter(path) as writer:
        writer.write([{"text": str(n)} for n in range(1000)])
    contents = path.read_bytes()
    path.write_bytes(contents[:-20] if harm == "cut" else b"no such thing " * 10)
    with pytest.raises(InputError, match=f"{name}: not a whole file compressed by"):
        read(path)


@pytest.mark.parametrize(
    ("name", "contents", "good", "bad"),
    [
        ("a.jsonl", b'{"n": 1}\n{\n[1]\n\n{"n": 5}\n\xff\n', [1, 5], [2, 3, 6]),
        ("a.csv", b'n,m\n1,2\n3\n4,"x" y\n5,6\n', [2, 5], [3, 4]),
        ("a.txt", b"one\n\xff\ntwo\n", [1, 3], [2]),
    ],
)
def test_lines_that_cannot_be_read_are_told_and_passed_over(tmp_path, name, contents, good, bad):
    path = tmp_path / name
    path.write_bytes(contents)
    told = []
    rows = list(read_rows(path, lambda line, error: told.append((line, str(error)))))
    assert [number for number, _ in rows] == good
    assert [number for number, _ in told] == bad
    for number, said in told:
        assert said.startswith(f"{path}:{number}: ")
    with pytest.raises(InputError, match=f"{name}:{bad[0]}: "):
        list(read_rows(path))
