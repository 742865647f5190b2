"""ONNX files without the onnx package: what a model asks of its surroundings, before a runtime sees a byte of it.

A graph can read other files (external data), need code (an operator of its own) and claim more memory than it has data
for. The reader walks protobuf's wire format (https://protobuf.dev/programming-guides/encoding/) along the fields of
onnx.proto that lead to a tensor or an operator. Weights are passed over in the mapped file, not copied. What no writer
writes and two readers could take for two things, such as a single field given twice, is refused.

>>> read_onnx(Path("bundle/onnx/model.onnx")).external  # doctest: +SKIP
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from burnish_serve.errors import BundleError

# TensorProto's fields of data, in the order float, int32, string, int64, raw, double, uint64.
FLOATS, STRINGS, RAW, DOUBLES = 4, 6, 9, 10
DATA = (FLOATS, 5, STRINGS, 7, RAW, DOUBLES, 11)
# The fields that are read, by message: the message that a field holds, or the kind of its value.
FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "bytes", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {4: "bytes", 5: "attribute", 7: "bytes"},
    "function": {1: "bytes", 7: "node", 10: "bytes", 11: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor", 3: "numbers"},
    "tensor": {1: "numbers", 2: "number", 8: "bytes", 13: "entry", 14: "number", **dict.fromkeys(DATA, "data")},
    "entry": {1: "bytes", 2: "bytes"},
}
# Those of them that may stand in a message more than once.
REPEATED: dict[str, set[int]] = {
    "model": {8, 20, 25},
    "graph": {1, 5, 15},
    "node": {5},
    "function": {7, 11},
    "attribute": {10, 11, 23},
    "sparse": {3},
    "tensor": {1, 4, 5, 6, 7, 10, 11, 13},
}
# Wire types: 0 is a number, 1 eight bytes, 5 four, and 2 bytes behind their length, which messages are too.
WIRES = {"number": {0}, "numbers": {0, 2}, "data": {0, 1, 2, 5}}
# Bits of an element (of a string, at the least), and the TensorProto.DataTypes that have so many.
TYPES = {
    2: (25, 26),
    4: (21, 22, 23),
    6: (27, 28),
    8: (2, 3, 8, 9, 17, 18, 19, 20, 24),
    16: (4, 5, 10, 16),
    32: (1, 6, 12),
    64: (7, 11, 13, 14),
    128: (15,),
}
BITS = {kind: bits for bits, kinds in TYPES.items() for kind in kinds}
EXTERNAL_KEYS = ("location", "offset", "length", "checksum")
MAX_DEPTH = 100  # messages in messages, as in protobuf
MAX_FIELDS = 2_000_000  # bert-base has some 10,000
MAX_SPARSE_ELEMENTS = 2**31  # ONNX Runtime writes a sparse tensor out in full

Span = tuple[int, int]
"""First byte of a value, and the byte after its last."""
Fields = dict[int, list[Span]]
"""The fields of a message by number."""


class External(NamedTuple):
    """Where the data of a tensor lies outside of the file."""

    tensor: str
    """Its name, cut to 80 characters."""
    location: str
    """As written. If all is well, a path relative to the model's folder."""
    offset: int
    """Bytes."""
    length: int
    """Bytes: those declared or those that the dimensions need, whichever are more."""


class Contents(NamedTuple):
    """What a model asks of its surroundings."""

    external: tuple[External, ...]
    operators: frozenset[tuple[str, str]]
    """(domain, name) of each operator that is no function of the model itself."""


class MalformedError(Exception):
    """Why some bytes are not a model, in a clause."""


def read_onnx(path: Path) -> Contents:
    """Return the external data and the operators of a model.

    Raises:
        BundleError: the file is no ONNX model, is cut short, or could be read in two ways.
    """
    try:
        if not path.stat().st_size:  # which cannot be mapped
            raise MalformedError("it is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_model(data)
    except MalformedError as error:
        raise BundleError(f"{path} is not an ONNX model that can be trusted: {error}") from error


def read_model(data: bytes | mmap.mmap) -> Contents:
    """Return the external data and the operators of a model in memory.

    Raises:
        MalformedError: it is none.
    """
    wire = _Wire(data)
    external: list[External] = []
    used, own = set(), set()
    todo = [("model", 0, len(data), 1)]
    while todo:
        kind, start, end, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise MalformedError(f"it is nested deeper than {MAX_DEPTH} messages")
        fields = wire.message(kind, start, end)
        if kind == "tensor":
            external += _external(wire, fields)
            continue
        for number, child in FIELDS[kind].items():
            if child in FIELDS:
                todo += [(child, first, last, depth + 1) for first, last in fields.get(number, ())]
        if kind == "model" and not (7 in fields and 8 in fields):
            raise MalformedError("it has no graph or no operator set")
        if kind == "node":
            used.add((wire.text(fields, 7), wire.text(fields, 4)))
        elif kind == "function":
            own.add((wire.text(fields, 10), wire.text(fields, 1)))
        elif kind == "sparse" and wire.elements(fields, 3) > MAX_SPARSE_ELEMENTS:
            raise MalformedError(f"a sparse tensor declares more than {MAX_SPARSE_ELEMENTS} elements")
    return Contents(tuple(external), frozenset(used - own))


def _external(wire: _Wire, tensor: Fields) -> Iterator[External]:
    """Yield where a tensor's data lies if that is outside of the file; else see that all of it is in there."""
    name = wire.text(tensor, 8)[:80]
    what = f"the tensor {name!r}"
    bits = BITS.get(wire.number(tensor, 2))
    if bits is None:
        raise MalformedError(f"{what} has an unknown data type ({wire.number(tensor, 2)})")
    elements = wire.elements(tensor, 1)
    place = wire.number(tensor, 14)
    if not place and 13 not in tensor:
        present = [number for number in DATA if number in tensor]
        if not {FLOATS, RAW, DOUBLES}.issuperset(present):
            bits = min(bits, 8)  # an element is a number of a byte or more, or shares one
        there = sum(1 if number == STRINGS else end - start for number in present for start, end in tensor[number])
        if elements * bits > there * 8:
            raise MalformedError(f"{what} declares {elements} elements, and their data has {there} bytes")
        return
    entries: dict[str, str] = {}
    for start, end in tensor.get(13, ()):
        entry = wire.message("entry", start, end)
        key = wire.text(entry, 1)
        if key not in EXTERNAL_KEYS or key in entries:
            raise MalformedError(f"the external data of {what} has an unknown or second key {key[:80]!r}")
        entries[key] = wire.text(entry, 2)
    if place > 1 or not entries.get("location"):
        raise MalformedError(f"the external data of {what} names no file")
    offset, length = (entries.get(key, "0") for key in ("offset", "length"))
    if not (offset + length).isascii() or not offset.isdecimal() or not length.isdecimal() or len(offset + length) > 38:
        raise MalformedError(f"the external data of {what} has an offset or a length that is no number")
    yield External(name, entries["location"], int(offset), max(int(length), -(-elements * bits // 8)))


class _Wire:
    """Reads protobuf's wire format from bytes; raises `MalformedError` where they are none."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data = data
        self.fields_left = MAX_FIELDS

    def message(self, kind: str, start: int, end: int) -> Fields:
        """Return those fields of a message that `FIELDS` names."""
        wanted, repeated = FIELDS[kind], REPEATED.get(kind, ())
        found: Fields = {}
        for number, wire, first, last in self._fields(start, end):
            if number not in wanted:
                continue
            if wire not in WIRES.get(wanted[number], {2}) or (number in found and number not in repeated):
                raise MalformedError(f"field {number} of a {kind} is of another type, or a second one, at byte {first}")
            found.setdefault(number, []).append((first, last))
        return found

    def text(self, fields: Fields, number: int) -> str:
        """Return a text; empty where there is none."""
        for start, end in fields.get(number, ()):
            try:
                return self.data[start:end].decode("utf-8")
            except UnicodeDecodeError as error:
                raise MalformedError(f"a name is not UTF-8 at byte {start}") from error
        return ""

    def number(self, fields: Fields, number: int) -> int:
        """Return a number; 0 where there is none."""
        return next((self._varint(start, end)[0] for start, end in fields.get(number, ())), 0)

    def elements(self, fields: Fields, number: int) -> int:
        """Return the product of dimensions, which are packed or stand there one by one."""
        product = 1
        for start, end in fields.get(number, ()):
            while start < end:
                size, start = self._varint(start, end)
                product *= size
                if size >= 2**63 or product >= 2**63:
                    raise MalformedError(f"a tensor has a size below 0 or beyond all memory at byte {start}")
        return product

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, wire type, and first and last byte of each field's value."""
        while start < end:
            self.fields_left -= 1
            tag, first = self._varint(start, end)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                last = self._varint(first, end)[1]
            elif wire == 2:
                length, first = self._varint(first, end)
                last = first + length
            else:
                last = first + {1: 8, 5: 4}.get(wire, end)  # groups (3, 4) are older than ONNX
            if last > end or not 0 < number < 2**29 or self.fields_left < 0:
                raise MalformedError(f"it is cut short or damaged at byte {start}")
            yield number, wire, first, last
            start = last

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        """Return a number, seven bits a byte and the lowest first, ten bytes at the most, and the place behind it."""
        value = shift = 0
        while start < end and shift < 64:
            byte = self.data[start]
            value |= (byte & 127) << shift
            start += 1
            if byte < 128:
                return value, start
            shift += 7
        raise MalformedError(f"it is cut short or damaged at byte {start}")
