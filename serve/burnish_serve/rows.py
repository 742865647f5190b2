"""Rows in and out: JSON lines, CSV, TSV, Parquet and plain text, one row at a time, in constant memory.

A row is a dict. Whatever cannot be read is said with file and line. What is written stands beside its final name until
it is whole and is then renamed into place, so that an interrupted job leaves nothing half-written.

>>> for number, row in read_rows("reviews.jsonl"): ...  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from burnish_serve.errors import InputError, MissingExtraError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
DELIMITERS = {"csv": ",", "tsv": "\t"}
PARQUET_ROWS = 4096  # a row group, as it is read and written


def format_of(path: str | Path) -> str:
    """Return the format that a file's name tells; standard input (``-``) is told by its first line.

    Raises:
        InputError: the ending is unknown.
    """
    suffix = Path(path).suffix.lower()
    if str(path) == "-":
        return "stdin"
    if suffix not in FORMATS:
        raise InputError(f"{path}: cannot tell the format from the ending {suffix!r}; known are {' '.join(FORMATS)}")
    return FORMATS[suffix]


def read_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, row)`` for each row of a file, or of standard input (``-``); blank lines are passed over.

    Plain text gives rows ``{"text": line}``. Parquet's "line" is the row's number, from 1.

    Raises:
        InputError: the file is missing, or a line cannot be read; the message names file and line.
        MissingExtraError: Parquet without pyarrow.
    """
    kind = format_of(path)
    with ExitStack() as stack:
        if kind == "stdin":
            yield from _read_lines(sys.stdin.buffer, "standard input", "stdin")
            return
        try:
            file = stack.enter_context(Path(path).open("rb"))
        except FileNotFoundError as error:
            raise InputError(f"no such file: {path}") from error
        except IsADirectoryError as error:
            raise InputError(f"{path} is a folder, not a file of rows") from error
        if kind == "parquet":
            yield from _read_parquet(file, str(path))
        elif kind in DELIMITERS:
            yield from _read_csv(file, str(path), DELIMITERS[kind])
        else:
            yield from _read_lines(file, str(path), kind)


def count_rows(path: str | Path) -> int | None:
    """Return about how many rows a file has, for a progress bar; None where that cannot be known."""
    try:
        if format_of(path) == "parquet":
            import pyarrow.parquet

            return int(pyarrow.parquet.read_metadata(path).num_rows)
        with Path(path).open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    except (OSError, ImportError, ValueError):
        return None


def columns_of(row: Mapping[str, Any]) -> str:
    """Return the columns of a row for a message."""
    return ", ".join(map(repr, row)) or "none"


def field_text(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return the text in a column.

    Raises:
        InputError: the column is missing or holds no text; ``where`` (file and line) stands in the message.
    """
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; the columns there are: {columns_of(row)}")
    value = row[column]
    if not isinstance(value, str):
        raise InputError(f"{where}: column {column!r} must hold text, not {json.dumps(value, default=str)}")
    return value


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{name}:{number}: not UTF-8 text (byte {error.start + 1} of the line)") from error


def _read_lines(lines: Iterable[bytes], name: str, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, raw in enumerate(_decoded(lines, name), 1):
        line = raw.rstrip("\r\n")
        if not line.strip():
            continue
        if kind == "stdin":
            kind = "jsonl" if line.lstrip().startswith("{") else "text"
        if kind == "text":
            yield number, {"text": line}
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}:{number}: not a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{name}:{number}: not a JSON object but {type(row).__name__}")
        yield number, row


def _read_csv(lines: Iterable[bytes], name: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_decoded(lines, name), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            if not fields:
                continue
            if header is None:
                header = fields
                if twice := sorted({column for column in header if header.count(column) > 1}):
                    raise InputError(f"{name}:{reader.line_num}: two columns are named {', '.join(map(repr, twice))}")
                continue
            if len(fields) != len(header):
                raise InputError(f"{name}:{reader.line_num}: {len(fields)} fields where the header has {len(header)}")
            yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"{name}:{reader.line_num}: {error}") from error


def _read_parquet(file: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet", "files") from error
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # damaged pages are OSErrors without a number
        raise InputError(f"{name}: not a Parquet file that can be read: {error}") from error


class RowWriter:
    """Writes rows to a file by its ending, or to standard output (None) as JSON lines; use it in a ``with``.

    Values that a format cannot hold are written as JSON text. The file appears under its name only when the block
    ends well.

    Raises:
        InputError: the ending is unknown or the folder is missing.
        MissingExtraError: Parquet without pyarrow.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._kind = "jsonl" if path is None else format_of(path)
        if self._kind in {"text", "stdin"}:
            raise InputError(f"{path}: answers are written as .jsonl, .csv, .tsv or .parquet")
        if self._kind == "parquet":
            try:
                import pyarrow.parquet  # noqa: F401  # asked for before the work begins
            except ImportError as error:
                raise MissingExtraError("Parquet", "files") from error
        if self._path and not self._path.parent.is_dir():
            raise InputError(f"no such folder: {self._path.parent}")
        if self._path and self._path.is_dir():
            raise InputError(f"{self._path} is a folder, not a file")
        self._table: Any = None
        self._header: list[str] | None = None

    def __enter__(self) -> RowWriter:
        if self._path is None:
            self._file: IO[str] | None = sys.stdout
            return self
        self._partial = self._path.with_name(f".{self._path.name}.partial-{os.getpid()}")
        newline = "\n" if self._kind == "jsonl" else ""
        parquet = self._kind == "parquet"
        self._file = (
            None if parquet else self._partial.open("w", encoding="utf-8", errors="backslashreplace", newline=newline)
        )
        return self

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows; those of CSV, TSV and Parquet all have the columns of the first."""
        if not rows:
            return
        if self._kind == "parquet":
            self._write_parquet(rows)
            return
        if self._file is None:
            raise RuntimeError("RowWriter is used outside its `with` block")
        if self._kind == "jsonl":
            self._file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
            return
        writer = csv.writer(self._file, delimiter=DELIMITERS[self._kind], lineterminator="\r\n")
        if self._header is None:
            self._header = list(rows[0])
            writer.writerow(self._header)
        writer.writerows([_flat(row.get(column)) for column in self._header] for row in rows)

    def _write_parquet(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow
        import pyarrow.parquet

        flat = [{**row, "answer": _flat(row["answer"])} if "answer" in row else dict(row) for row in rows]
        self._header = self._header or list(flat[0])
        columns = {name: self._column(name, [row.get(name) for row in flat]) for name in self._header}
        if self._table is None:
            self._table = pyarrow.parquet.ParquetWriter(self._partial, pyarrow.table(columns).schema)
        self._table.write_table(pyarrow.table(columns, schema=self._table.schema))

    def _column(self, name: str, values: list[Any]) -> Any:
        """Return a column in the type that its first rows have; text where those hold nothing."""
        import pyarrow

        try:
            array = pyarrow.array(values)
            if self._table is None:
                return array.cast(pyarrow.string()) if pyarrow.types.is_null(array.type) else array
            wanted = self._table.schema.field(name).type
            if pyarrow.types.is_string(wanted) and array.type not in (wanted, pyarrow.null()):
                raise ValueError(f"text, then {array.type}")  # a cast would turn it into text
            return array.cast(wanted)
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            said = f"{self._path}: the column {name!r} holds values that one Parquet column cannot hold"
            raise InputError(f"{said}: {error}; write .jsonl instead") from error

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._path is None:
            sys.stdout.flush()
            return
        try:
            if self._table is not None:
                self._table.close()
            if self._file is not None:
                self._file.close()
            if kind is None and self._partial.exists():
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else value
