"""Rows to JSON lines, CSV, TSV and Parquet, compressed or not, in constant memory.

What is written stands beside its final name until it is whole and is then renamed into place, so that an interrupted
job leaves nothing half-written. What stands there is made of blocks that can be cut off anywhere between two of them
and gone on with: lines, frames of gzip or zstd, and for Parquet, which is closed by an index, messages of Arrow that
become a Parquet file at the end.

>>> with RowWriter("answers.jsonl") as writer:  # doctest: +SKIP
...     writer.write([{"text": "great", "answer": {"label": "positive", "score": 0.98}}])
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from burnish_serve.errors import InputError, MissingExtraError
from burnish_serve.rows import DELIMITERS, compression_of, format_of


class RowWriter:
    """Writes rows to a file by its ending, or to standard output (None) as JSON lines; use it in a ``with``.

    Values that a format cannot hold are written as JSON text. The file appears under its name only when the block
    ends well.

    Args:
        path: the file.
        partial: where it stands until then; there it stays where the block ends otherwise. None for a file that goes.
        state: what `state` returned, to go on behind it in ``partial``; None to begin.

    Raises:
        InputError: the ending is unknown or the folder is missing.
        MissingExtraError: Parquet or zstd without pyarrow.
    """

    def __init__(
        self, path: str | Path | None, *, partial: Path | None = None, state: Mapping[str, Any] | None = None
    ) -> None:
        self._path = None if path is None else Path(path)
        self._kind = "jsonl" if path is None else format_of(path)
        self._compression = "" if path is None else compression_of(path)
        if self._kind in {"text", "stdin"}:
            raise InputError(f"{path}: answers are written as .jsonl, .csv, .tsv or .parquet")
        if self._kind == "parquet" or self._compression == "zstd":
            try:
                import pyarrow.parquet  # noqa: F401  # asked for before the work begins
            except ImportError as error:
                raise MissingExtraError("Parquet" if self._kind == "parquet" else "zstd", "files") from error
        if self._path and not self._path.parent.is_dir():
            raise InputError(f"no such folder: {self._path.parent}")
        if self._path and self._path.is_dir():
            raise InputError(f"{self._path} is a folder, not a file")
        self._kept = partial is not None
        self._partial = partial or (self._path and self._path.with_name(f".{self._path.name}.partial-{os.getpid()}"))
        self._begun = dict(state or {})
        self._header: list[str] | None = self._begun.get("header")
        self._schema: Any = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RowWriter:
        if self._partial is None:
            return self
        self._file = self._partial.open("r+b" if self._begun else "wb")
        if self._begun:
            if self._kind == "parquet" and self._begun["bytes"]:
                import pyarrow

                self._schema = pyarrow.ipc.read_schema(self._file)
            self._file.truncate(self._begun["bytes"])
            self._file.seek(0, os.SEEK_END)
        return self

    def state(self) -> dict[str, Any]:
        """Return what it takes to go on behind all that is written, which is on the disk by then."""
        if self._file is None:
            raise RuntimeError("a RowWriter of a file has a state, inside its `with` block")
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "header": self._header}

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows; those of CSV, TSV and Parquet all have the columns of the first."""
        if not rows:
            return
        block = self._block(rows)
        if self._partial is None:
            sys.stdout.write(block.decode("utf-8"))
            return
        if self._file is None:
            raise RuntimeError("RowWriter is used outside its `with` block")
        self._file.write(self._compressed(block))

    def _block(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        if self._kind == "parquet":
            return self._messages(rows)
        text = io.StringIO(newline="")
        if self._kind == "jsonl":
            text.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        else:
            writer = csv.writer(text, delimiter=DELIMITERS[self._kind], lineterminator="\r\n")
            if self._header is None:
                self._header = list(rows[0])
                writer.writerow(self._header)
            writer.writerows([_flat(row.get(column)) for column in self._header] for row in rows)
        return text.getvalue().encode("utf-8", errors="backslashreplace")

    def _compressed(self, block: bytes) -> bytes:
        if self._compression == "gzip":
            return gzip.compress(block, mtime=0)
        if self._compression == "zstd":
            import pyarrow

            return bytes(pyarrow.compress(block, codec="zstd", asbytes=True))
        return block

    def _messages(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Return rows as messages of an Arrow stream, the first of which is the schema."""
        import pyarrow

        flat = [{**row, "answer": _flat(row["answer"])} if "answer" in row else dict(row) for row in rows]
        names = list(flat[0]) if self._schema is None else self._schema.names
        columns = {name: self._column(name, [row.get(name) for row in flat]) for name in names}
        first = b""
        if self._schema is None:
            self._schema = pyarrow.table(columns).schema
            first = self._schema.serialize().to_pybytes()
        table = pyarrow.table(columns, schema=self._schema)
        return bytes(first + b"".join(batch.serialize().to_pybytes() for batch in table.to_batches()))

    def _column(self, name: str, values: list[Any]) -> Any:
        """Return a column in the type that its first rows have; text where those hold nothing."""
        import pyarrow

        try:
            array = pyarrow.array(values)
            if self._schema is None:
                return array.cast(pyarrow.string()) if pyarrow.types.is_null(array.type) else array
            wanted = self._schema.field(name).type
            if pyarrow.types.is_string(wanted) and array.type not in (wanted, pyarrow.null()):
                raise ValueError(f"text, then {array.type}")  # a cast would turn it into text
            return array.cast(wanted)
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            said = f"{self._path}: the column {name!r} holds values that one Parquet column cannot hold"
            raise InputError(f"{said}: {error}; write .jsonl instead") from error

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._partial is None:
            sys.stdout.flush()
            return
        done = False
        try:
            if self._file is not None:
                self._file.close()
            if kind is None and self._path is not None:
                if self._kind == "parquet":
                    _to_parquet(self._partial)
                self._partial.replace(self._path)
                done = True
        finally:
            if not done and not self._kept:
                self._partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, which appears when it is whole."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _to_parquet(path: Path) -> None:
    """Make a Parquet file of a file of Arrow messages, in its place; each message becomes a row group."""
    import pyarrow
    import pyarrow.parquet

    if not path.stat().st_size:
        path.unlink()
        return
    other = path.with_name(path.name + ".parquet")
    try:
        with (
            path.open("rb") as file,
            pyarrow.ipc.open_stream(file) as stream,
            pyarrow.parquet.ParquetWriter(other, stream.schema) as writer,
        ):
            for batch in stream:
                writer.write_batch(batch)
        other.replace(path)
    finally:
        other.unlink(missing_ok=True)


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else value
