"""The reader of ONNX files finds what the onnx package finds, and refuses what could be read in two ways.

Models are drawn at random with tensors wherever onnx.proto has room for one, written by protobuf, and read by both.
"""

from __future__ import annotations

import re
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import onnx
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, external_data_helper, helper

from burnish_serve import BundleError, onnxfile
from burnish_serve.onnxfile import External, MalformedError, read_model, read_onnx

MESSAGES = {
    "model": "ModelProto",
    "training": "TrainingInfoProto",
    "graph": "GraphProto",
    "node": "NodeProto",
    "function": "FunctionProto",
    "attribute": "AttributeProto",
    "sparse": "SparseTensorProto",
    "tensor": "TensorProto",
    "entry": "StringStringEntryProto",
}
SCHEMA = ModelProto.DESCRIPTOR.file.message_types_by_name


# Models at random

names = st.text(max_size=5)
domains = st.sampled_from(["", "ai.onnx", "com.microsoft", "local", "é"])


@st.composite
def tensors(draw) -> TensorProto:
    dims = draw(st.lists(st.integers(0, 3), max_size=3))
    kind = draw(st.sampled_from([TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT8, TensorProto.FLOAT16]))
    needed = onnxfile.BITS[kind] // 8
    for dim in dims:
        needed *= dim
    tensor = TensorProto(name=draw(names), dims=dims, data_type=kind, raw_data=bytes(needed))
    if draw(st.booleans()):
        numbers = st.none() | st.integers(0, 2**62)
        location = draw(st.text(min_size=1, max_size=8))
        external_data_helper.set_external_data(tensor, location, draw(numbers), draw(numbers), draw(st.none() | names))
        tensor.ClearField("raw_data")
    return tensor


def some(messages: st.SearchStrategy, size: int = 2) -> st.SearchStrategy:
    return st.lists(messages, max_size=size)


@st.composite
def attributes(draw, depth: int, *, everywhere: bool) -> AttributeProto:
    attribute = AttributeProto(name=draw(names), doc_string=draw(names))
    kinds = ["FLOAT", "INTS", "TENSOR", "TENSORS", *(["GRAPH", "GRAPHS"] if depth else [])]
    kind = draw(st.sampled_from([*kinds, *(["SPARSE_TENSOR", "SPARSE_TENSORS"] if everywhere else [])]))
    attribute.type = AttributeProto.AttributeType.Value(kind)
    if kind == "FLOAT":
        attribute.f = 0.5
    elif kind == "INTS":
        attribute.ints.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))
    elif kind == "TENSOR":
        attribute.t.CopyFrom(draw(tensors()))
    elif kind == "TENSORS":
        attribute.tensors.extend(draw(some(tensors())))
    elif kind == "GRAPH":
        attribute.g.CopyFrom(draw(graphs(depth - 1, everywhere=everywhere)))
    elif kind == "GRAPHS":
        attribute.graphs.extend(draw(some(graphs(depth - 1, everywhere=everywhere))))
    elif kind == "SPARSE_TENSOR":
        attribute.sparse_tensor.CopyFrom(draw(sparse_tensors()))
    else:
        attribute.sparse_tensors.extend(draw(some(sparse_tensors())))
    return attribute


@st.composite
def sparse_tensors(draw) -> onnx.SparseTensorProto:
    dims = draw(st.lists(st.integers(0, 9), max_size=3))
    return onnx.SparseTensorProto(values=draw(tensors()), indices=draw(tensors()), dims=dims)


@st.composite
def nodes(draw, depth: int, *, everywhere: bool) -> onnx.NodeProto:
    node = onnx.NodeProto(input=draw(some(names)), name=draw(names), op_type=draw(names), domain=draw(domains))
    node.attribute.extend(draw(some(attributes(depth, everywhere=everywhere))))
    return node


@st.composite
def graphs(draw, depth: int, *, everywhere: bool) -> GraphProto:
    graph = GraphProto(name=draw(names))
    graph.node.extend(draw(some(nodes(depth, everywhere=everywhere))))
    graph.initializer.extend(draw(some(tensors())))
    if everywhere:
        graph.sparse_initializer.extend(draw(some(sparse_tensors(), 1)))
    return graph


@st.composite
def models(draw, *, everywhere: bool = True) -> ModelProto:
    model = ModelProto(ir_version=8, producer_name=draw(names), opset_import=[helper.make_opsetid("", 17)])
    model.graph.CopyFrom(draw(graphs(2, everywhere=everywhere)))
    for _ in range(draw(st.integers(0, 2))):
        function = model.functions.add(name=draw(names), domain=draw(domains))
        function.node.extend(draw(some(nodes(2 if everywhere else 0, everywhere=everywhere))))
        if everywhere:
            function.attribute_proto.extend(draw(some(attributes(1, everywhere=True))))
    if everywhere and draw(st.booleans()):
        model.training_info.add().algorithm.CopyFrom(draw(graphs(1, everywhere=True)))
    return model


def messages_in(message: Message) -> Iterator[Message]:
    """Yield a message and all those in it, as protobuf's own reflection finds them."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                yield from messages_in(inner)


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    return (message for message in messages_in(model) if isinstance(message, TensorProto))


def needed(tensor: TensorProto) -> int:
    elements = 1
    for dim in tensor.dims:
        elements *= dim
    return -(-elements * onnxfile.BITS[tensor.data_type] // 8)


def external(found: Iterator[TensorProto]) -> Counter[External]:
    """Return what stands in tensors as the onnx package reads it."""
    there = Counter()
    for tensor in found:
        if external_data_helper.uses_external_data(tensor):
            info = external_data_helper.ExternalDataInfo(tensor)
            length = max(info.length or 0, needed(tensor))
            there[External(tensor.name, info.location, info.offset or 0, length)] += 1
    return there


@given(models(everywhere=False))
def test_external_data_is_found_where_the_onnx_package_finds_it(model):
    found = read_model(model.SerializeToString())
    assert Counter(found.external) == external(external_data_helper._get_all_tensors(model))


@given(models())
def test_external_data_is_found_wherever_it_can_be(model):
    found = read_model(model.SerializeToString())
    assert Counter(found.external) == external(all_tensors(model))
    assert Counter(found.external) >= external(external_data_helper._get_all_tensors(model))


@given(models())
def test_operators_are_found_but_for_the_models_own_functions(model):
    used = {(node.domain, node.op_type) for node in messages_in(model) if isinstance(node, onnx.NodeProto)}
    own = {(function.domain, function.name) for function in model.functions}
    assert read_model(model.SerializeToString()).operators == used - own


def small_model() -> bytes:
    """Return a model with external data at the top, in an attribute and in a function."""
    far = [TensorProto(name=name, dims=[2], data_type=1, raw_data=bytes(8)) for name in "abc"]
    for tensor in far:
        external_data_helper.set_external_data(tensor, f"{tensor.name}.data", 8, 8)
        tensor.ClearField("raw_data")
    opset = [helper.make_opsetid("", 17)]
    inner = helper.make_graph([], "inner", [], [], far[1:2])
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=inner), helper.make_node("Own", [], [], domain="local")]
    own = helper.make_function("local", "Own", [], [], [helper.make_node("Constant", [], ["z"], value=far[2])], opset)
    graph = helper.make_graph(nodes, "outer", [], [], far[:1])
    return helper.make_model(graph, opset_imports=opset, functions=[own]).SerializeToString()


@settings(max_examples=500)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2), st.binary(max_size=3)), min_size=1, max_size=3))
def test_damaged_bytes_are_refused_or_read_as_protobuf_reads_them(damages):
    damaged = bytearray(small_model())
    assert len(read_model(bytes(damaged)).external) == 3
    for place, removed, added in damages:
        start = int(place * len(damaged))
        damaged[start : start + removed] = added
    try:
        found = read_model(bytes(damaged))
    except MalformedError:
        return
    try:
        theirs = ModelProto.FromString(bytes(damaged))
    except DecodeError:
        return
    locations = {
        entry.value
        for tensor in all_tensors(theirs)
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations <= {tensor.location for tensor in found.external}


# The tables against onnx.proto


def leads_on(message, seen=()) -> bool:
    """Return whether a message is a tensor or a node, or can hold one."""
    if message.name in ("TensorProto", "NodeProto"):
        return True
    inner = {field.message_type for field in message.fields if field.message_type}
    return any(leads_on(kind, (*seen, message)) for kind in inner if kind not in seen and kind != message)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_field_that_can_lead_to_a_tensor_or_an_operator_is_read(kind):
    by_name = {name: kind for kind, name in MESSAGES.items()}
    fields = SCHEMA[MESSAGES[kind]].fields
    leading = {f.number: by_name[f.message_type.name] for f in fields if f.message_type and leads_on(f.message_type)}
    read = {number: child for number, child in onnxfile.FIELDS[kind].items() if child in MESSAGES and child != "entry"}
    assert read == leading


@pytest.mark.parametrize("kind", MESSAGES)
def test_the_fields_that_may_stand_there_twice_are_those_of_onnx(kind):
    repeated = {field.number for field in SCHEMA[MESSAGES[kind]].fields if field.is_repeated}
    assert onnxfile.REPEATED.get(kind, set()) == repeated & onnxfile.FIELDS[kind].keys()
    assert set(onnxfile.FIELDS[kind]) <= set(SCHEMA[MESSAGES[kind]].fields_by_number)


def test_the_fields_of_data_are_those_of_onnx():
    fields = SCHEMA["TensorProto"].fields
    assert set(onnxfile.DATA) == {field.number for field in fields if field.name.endswith("_data")} - {13}
    named = SCHEMA["TensorProto"].fields_by_name
    numbers = [named[name].number for name in ("float_data", "string_data", "raw_data", "double_data")]
    assert numbers == [onnxfile.FLOATS, onnxfile.STRINGS, onnxfile.RAW, onnxfile.DOUBLES]


@pytest.mark.parametrize(("name", "kind"), [item for item in TensorProto.DataType.items() if item[1]])
def test_an_element_has_as_many_bits_as_in_onnx(name, kind):
    small = re.match(r"U?(?:INT|FLOAT)(\d)(?:E|$)", name)
    if name == "STRING":
        assert onnxfile.BITS[kind] == 8
    elif small:
        assert onnxfile.BITS[kind] == int(small[1])
    else:
        assert onnxfile.BITS[kind] == 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize


# What no writer writes


def varint(value: int) -> bytes:
    """Return a number as the wire has it."""
    return bytes([value]) if value < 128 else bytes([128 | value & 127]) + varint(value >> 7)


def field(number: int, value: bytes | int) -> bytes:
    """Return a field: bytes with their length, or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(key: str, value: str) -> bytes:
    return field(13, field(1, key.encode()) + field(2, value.encode()))


OPSET = field(8, field(2, 17))
FLOAT = field(2, TensorProto.FLOAT)
OUTSIDE = FLOAT + field(14, TensorProto.EXTERNAL)


def model_with(tensor: bytes) -> bytes:
    return field(7, field(5, tensor)) + OPSET


def refusal(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        read_model(data)
    return str(caught.value)


def test_the_bytes_of_these_tests_are_those_of_protobuf():
    tensor = TensorProto(dims=[2], data_type=1, name="w", data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.data")
    mine = model_with(field(1, 2) + OUTSIDE + field(8, b"w") + entry("location", "w.data"))
    assert ModelProto.FromString(mine).graph.initializer[0] == tensor
    assert read_model(mine).external == (External("w", "w.data", 0, 8),)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no graph or no operator set"),
        (OPSET, "no graph or no operator set"),
        (field(7, b""), "no graph or no operator set"),
        (field(7, b"") * 2 + OPSET, "field 7 of a model is of another type, or a second one"),
        (field(7, 0) + OPSET, "field 7 of a model is of another type"),
        (b"\x3b\x3c" + OPSET, "damaged at byte 0"),  # a group
        (b"\x3e" + OPSET, "damaged at byte 0"),  # there is no such wire type
        (b"\x00\x00" + field(7, b"") + OPSET, "damaged at byte 0"),  # field 0
        (varint(2**32 | 7 << 3 | 2) + b"\x00" + OPSET, "damaged at byte 0"),  # 32 bits of it are field 7
        (b"\xff" * 12, "damaged"),
        (b"\x08" + b"\x80" * 10 + b"\x00" + field(7, b"") + OPSET, "damaged at byte 11"),  # a number of eleven bytes
        (field(7, b"")[:-1] + b"\x7f" + OPSET, "damaged at byte 0"),  # longer than the file
        (field(7, field(1, field(4, b"\xff"))) + OPSET, "not UTF-8"),
    ],
    ids=str,
)
def test_what_is_no_model_is_refused(data, said):
    assert said in refusal(data)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (OUTSIDE, "names no file"),
        (OUTSIDE + entry("location", ""), "names no file"),
        (FLOAT + field(14, 2**32 + 1) + entry("location", "x"), "names no file"),  # 32 bits of it are EXTERNAL
        (OUTSIDE + field(14, 0) + entry("location", "x"), "field 14 of a tensor"),
        (OUTSIDE + entry("location", "x") * 2, "second key 'location'"),
        (OUTSIDE + entry("location", "x") + entry("basepath", "/"), "unknown or second key 'basepath'"),
        (OUTSIDE + field(13, field(1, b"location") + field(2, b"x") * 2), "field 2 of a entry"),
        (OUTSIDE + entry("location", "x") + entry("offset", "-1"), "no number"),
        (OUTSIDE + entry("location", "x") + entry("length", "0x10"), "no number"),
        (OUTSIDE + entry("location", "x") + entry("offset", "9" * 5000), "no number"),
        (OUTSIDE + entry("location", "x") + entry("offset", "\u0663"), "no number"),  # a 3 to Python alone
        (OUTSIDE + entry("location", "x") + entry("offset", ""), "no number"),
        (field(2, 99), "unknown data type (99)"),
        (b"", "unknown data type (0)"),
        (field(2, 2**32 + 1), "unknown data type"),
        (FLOAT + field(1, 2**63), "below 0"),
        (FLOAT + field(1, 0) + field(1, 2**64 - 1), "below 0"),
        (FLOAT + field(1, 2**32) * 2, "beyond all memory"),
        (FLOAT + field(1, 3) + field(9, bytes(11)), "declares 3 elements, and their data has 11 bytes"),
        (FLOAT + field(1, 2**40) + field(9, bytes(4)), "declares 1099511627776 elements"),
        (FLOAT + field(1, 2) + field(4, bytes(7)), "declares 2 elements"),
        (FLOAT, "declares 1 elements, and their data has 0 bytes"),
        (field(2, TensorProto.INT64) + field(1, 3) + field(7, b"\1\2"), "declares 3 elements"),
        (field(2, TensorProto.INT4) + field(1, 5) + field(5, b"\1\2"), "declares 5 elements"),
        (field(2, TensorProto.STRING) + field(1, 3) + field(6, b"long") * 2, "declares 3 elements"),
    ],
    ids=str,
)
def test_a_tensor_that_is_not_what_it_declares_is_refused(tensor, said):
    assert said in refusal(model_with(tensor))


@pytest.mark.parametrize(
    "tensor",
    [
        FLOAT + field(1, varint(1) + varint(2)) + field(9, bytes(8)),  # dimensions packed
        FLOAT + field(1, 1) + field(1, 2) + field(9, bytes(8)),
        FLOAT + field(4, bytes(4)),
        FLOAT + b"\x25" + bytes(4),  # a number of four bytes that is not packed
        FLOAT + field(1, 0),
        field(2, TensorProto.DOUBLE) + field(1, 2) + field(10, bytes(16)),
        field(2, TensorProto.INT64) + field(1, 3) + field(7, b"\1\2\3"),
        field(2, TensorProto.INT64) + field(1, 2) + field(7, 1) + field(7, 2),
        field(2, TensorProto.UINT64) + field(1, 1) + field(11, b"\1"),
        field(2, TensorProto.INT4) + field(1, 5) + field(5, b"\1\2\3"),
        field(2, TensorProto.INT4) + field(1, 5) + field(9, b"\1\2\3"),
        field(2, TensorProto.STRING) + field(1, 2) + field(6, b"") * 2,
    ],
    ids=str,
)
def test_a_tensor_that_is_what_it_declares_is_read(tensor):
    assert ModelProto.FromString(model_with(tensor)).graph.initializer[0].data_type
    assert read_model(model_with(tensor)).external == ()


def test_what_stands_in_external_data_counts_whatever_the_place_says():
    told = FLOAT + field(14, TensorProto.DEFAULT) + entry("location", "../secret") + field(9, bytes(4))
    assert [tensor.location for tensor in read_model(model_with(told)).external] == ["../secret"]


def test_a_sparse_tensor_that_is_huge_when_written_out_is_refused():
    sparse = field(3, 2**20) * 2
    assert "a sparse tensor declares more than" in refusal(field(7, field(15, sparse)) + OPSET)
    assert read_model(field(7, field(15, field(3, 2**20))) + OPSET).external == ()


def test_a_model_nested_without_end_is_refused():
    graph = b""
    for _ in range(40):
        graph = field(1, field(5, field(6, graph)))
    assert "nested deeper than" in refusal(field(7, graph) + OPSET)
    with pytest.raises(DecodeError):
        ModelProto.FromString(field(7, graph) + OPSET)


def test_fields_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(onnxfile, "MAX_FIELDS", 1000)
    assert "damaged" in refusal(field(7, field(1, b"") * 1000) + OPSET)
    assert read_model(field(7, field(1, b"") * 900) + OPSET).operators == {("", "")}


# Files


def test_a_model_that_is_cut_anywhere_is_refused(tiny_bundle):
    whole = (tiny_bundle / "onnx" / "model.onnx").read_bytes()
    assert ("", "MatMul") in read_model(whole).operators
    for size in range(len(whole)):
        refusal(whole[:size])


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "it is empty"), (b"PK\x03\x04", "damaged at byte"), (b"\x80\x04\x95", "damaged")]
)
def test_the_message_names_the_file(tmp_path, data, said):
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=rf"model\.onnx is not an ONNX model that can be trusted: .*{said}"):
        read_onnx(tmp_path / "model.onnx")


def test_weights_are_not_copied(tmp_path):
    path, size = tmp_path / "model.onnx", 2**27
    head = FLOAT + field(1, size // 4) + varint(9 << 3 | 2) + varint(size)
    graph = varint(5 << 3 | 2) + varint(len(head) + size) + head
    with path.open("wb") as file:  # zeros that take no room on the disk
        file.write(varint(7 << 3 | 2) + varint(len(graph) + size) + graph)
        file.seek(size, 1)
        file.write(OPSET)
    tracemalloc.start()
    try:
        assert read_onnx(path).external == ()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
