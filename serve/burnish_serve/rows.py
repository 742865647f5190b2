"""Rows from JSON lines, CSV, TSV, Parquet and plain text, compressed or not, one at a time, in constant memory.

A row is a dict. Whatever cannot be read is said with file and line.

>>> for number, row in read_rows("reviews.jsonl.gz"): ...  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
DELIMITERS = {"csv": ",", "tsv": "\t"}
PARQUET_ROWS = 4096  # read at a time


def format_of(path: str | Path) -> str:
    """Return the format that a file's name tells; standard input (``-``) is told by its first line.

    Raises:
        InputError: the ending is unknown.
    """
    if str(path) == "-":
        return "stdin"
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    inner = suffixes[:-1] if compression_of(path) else suffixes
    suffix = inner[-1] if inner else ""
    if suffix not in FORMATS or (compression_of(path) and suffix == ".parquet"):
        known = f"{' '.join(FORMATS)}, and all but .parquet with {' or '.join(COMPRESSIONS)} behind"
        raise InputError(f"{path}: cannot tell the format from the ending {''.join(suffixes)!r}; known are {known}")
    return FORMATS[suffix]


def compression_of(path: str | Path) -> str:
    """Return how a file is compressed, by its ending; empty for not at all."""
    return COMPRESSIONS.get(Path(path).suffix.lower(), "")


def read_rows(
    path: str | Path, on_error: Callable[[int, InputError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, row)`` for each row of a file, or of standard input (``-``); blank lines are passed over.

    Plain text gives rows ``{"text": line}``. Parquet's "line" is the row's number, from 1.

    Args:
        path: the file.
        on_error: told of each line that cannot be read, and of what is wrong with it; reading then goes on. Where it
            is None, the first such line ends the reading.

    Raises:
        InputError: the file is missing, or a line cannot be read; the message names file and line.
        MissingExtraError: Parquet or zstd without pyarrow.
    """
    kind = format_of(path)
    report = on_error or _raise
    if kind == "stdin":
        yield from _read_lines(sys.stdin.buffer, "standard input", "stdin", report)
        return
    with _opened(path) as file:
        if kind == "parquet":
            yield from _read_parquet(file, str(path))
        elif kind in DELIMITERS:
            yield from _read_csv(_whole(file, path), str(path), DELIMITERS[kind], report)
        else:
            yield from _read_lines(_whole(file, path), str(path), kind, report)


def count_rows(path: str | Path) -> int | None:
    """Return about how many rows a file has, for a progress bar; None where that cannot be known."""
    try:
        return count_lines(path)
    except (OSError, InputError, MissingExtraError):
        return None


def count_lines(path: str | Path) -> int:
    """Return how many lines a file has, an unfinished last one among them; of Parquet, how many rows.

    Raises:
        InputError: the file is missing or cannot be read.
        MissingExtraError: Parquet or zstd without pyarrow.
    """
    count, last = 0, b"\n"
    with _opened(path) as file:
        if format_of(path) == "parquet":
            return int(_parquet_file(file, str(path)).metadata.num_rows)
        for block in _whole(iter(lambda: file.read(2**20), b""), path):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


@contextmanager
def _opened(path: str | Path) -> Iterator[IO[bytes]]:
    """Give a file of rows, decompressed as it is read."""
    compression = compression_of(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(path).open("rb"))
        except FileNotFoundError as error:
            raise InputError(f"no such file: {path}") from error
        except IsADirectoryError as error:
            raise InputError(f"{path} is a folder, not a file of rows") from error
        if compression == "gzip":
            yield io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=file)))
        elif compression == "zstd":
            try:
                import pyarrow
            except ImportError as error:
                raise MissingExtraError("zstd", "files") from error
            yield io.BufferedReader(stack.enter_context(pyarrow.CompressedInputStream(file, "zstd")))
        else:
            yield file


def _whole(lines: Iterable[bytes], path: str | Path) -> Iterator[bytes]:
    """Yield the lines of a file; one whose compression is damaged, or cut off, is said."""
    try:
        yield from lines
    except (OSError, EOFError, zlib.error) as error:
        if not compression_of(path):
            raise
        raise InputError(f"{path}: not a whole file compressed by {compression_of(path)}: {error}") from error


def _raise(line: int, error: InputError) -> None:
    raise error


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


def _decoded(lines: Iterable[bytes], name: str, report: Callable[[int, InputError], None]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            report(number, InputError(f"{name}:{number}: not UTF-8 text (byte {error.start + 1} of the line)"))


def _read_lines(
    lines: Iterable[bytes], name: str, kind: str, report: Callable[[int, InputError], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, raw in _decoded(lines, name, report):
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
            report(number, InputError(f"{name}:{number}: not a JSON object: {error}"))
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            report(number, InputError(f"{name}:{number}: not a JSON object but {type(row).__name__}"))


def _read_csv(
    lines: Iterable[bytes], name: str, delimiter: str, report: Callable[[int, InputError], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    number = 0

    def decoded() -> Iterator[str]:
        nonlocal number
        for line, text in _decoded(lines, name, report):
            number = line
            yield text

    reader = csv.reader(decoded(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(number, InputError(f"{name}:{number}: {error}"))
            continue
        if not fields:
            continue
        if header is None:
            header = fields
            if twice := sorted({column for column in header if header.count(column) > 1}):
                raise InputError(f"{name}:{number}: two columns are named {', '.join(map(repr, twice))}")
        elif len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        else:
            said = f"{len(fields)} fields where the header has {len(header)}"
            report(number, InputError(f"{name}:{number}: {said}"))


def _read_parquet(file: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    table = _parquet_file(file, name)
    import pyarrow

    try:
        number = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # damaged pages are OSErrors without a number
        raise InputError(f"{name}: not a Parquet file that can be read: {error}") from error


def _parquet_file(file: IO[bytes], name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet", "files") from error
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name}: not a Parquet file that can be read: {error}") from error
