"""The mask of padding: replaced where it is only that, found by what it computes, and the same numbers as before."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish_export.mask import mask_into_products, plain_mask
from burnish_serve.session import create_session

HEADS = 3
HIDDEN = float(np.finfo(np.float32).min)
MASKS = [np.array(rows) for rows in ([[1, 1, 1], [1, 1, 0], [0, 1, 1]], [[1]], [[1, 0, 1, 1, 1], [1, 1, 1, 1, 1]])]


def table(kind: str) -> list:
    """Return nodes that make ``table`` of ``attention_mask`` in a roundabout way."""
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["real", "ends"], ["keys"]),
        helper.make_node("Shape", ["input_ids"], ["length"], start=1),
        helper.make_node("Squeeze", ["length"], ["count"]),
        helper.make_node("Range", ["nothing", "count", "one"], ["places"]),
        helper.make_node("Unsqueeze", ["places", "last"], ["queries"]),
        helper.make_node("GreaterOrEqual", ["queries", "nothing"], ["always"]),
    ]
    if kind == "causal":
        nodes[-1] = helper.make_node("GreaterOrEqual", ["queries", "places"], ["always"])
    if kind == "window":
        nodes[-1:] = [
            helper.make_node("Sub", ["queries", "places"], ["apart"]),
            helper.make_node("Abs", ["apart"], ["distance"]),
            helper.make_node("LessOrEqual", ["distance", "window"], ["always"]),
        ]
    nodes.append(helper.make_node("And", ["keys", "always"], ["seen"]))
    if kind == "both":
        nodes[-1:] = [
            helper.make_node("Unsqueeze", ["real", "sides"], ["own"]),
            helper.make_node("And", ["keys", "own"], ["seen"]),
        ]
    nodes.append(helper.make_node("Where", ["seen", "zero", "hidden"], ["table"]))
    if kind == "by length":
        nodes[-1:] = [
            helper.make_node("Cast", ["count"], ["tokens"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["tokens", "hidden"], ["more"]),
            helper.make_node("Where", ["seen", "zero", "more"], ["table"]),
        ]
    return nodes


def graph(kind: str, hidden: float = HIDDEN, *, heads: bool = False, scaled: str = "Mul") -> ir.Model:
    """Return a model that adds the table to scores made of the ids, by a product of several heads or without one."""
    scores = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "ends"], ["scores"]),
    ]
    if heads:
        scores[1:] = [
            helper.make_node("Unsqueeze", ["numbers", "sides"], ["column"]),
            helper.make_node("Mul", ["column", "queries_of"], ["query"]),
            helper.make_node("Mul", ["column", "keys_of"], ["key"]),
            helper.make_node("Transpose", ["key"], ["turned"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["query", "turned"], ["product"], name="attention/MatMul"),
            helper.make_node(scaled, ["product", "scale"], ["scores"], name="attention/scaled"),
        ]
    nodes = [
        *table(kind),
        *scores,
        helper.make_node("Add", ["scores", "table"], ["masked"], name="attention/Add"),
        helper.make_node("Softmax", ["masked"], ["logits"]),
    ]
    random = np.random.default_rng(1)
    constants = {
        "ends": np.array([1, 2]),
        "sides": np.array([1, 3]),
        "last": np.array([1]),
        "nothing": np.array(0),
        "one": np.array(1),
        "window": np.array(128),
        "zero": np.array(0, dtype=np.float32),
        "hidden": np.array(hidden, dtype=np.float32),
        "queries_of": random.normal(size=(1, HEADS, 1, 4)).astype(np.float32),
        "keys_of": random.normal(size=(1, HEADS, 1, 4)).astype(np.float32),
        "scale": np.array(0.5, dtype=np.float32),
    }
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in ("input_ids", "attention_mask")]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", HEADS if heads else 1, "l", "l"])
    known = [helper.make_tensor_value_info("table", TensorProto.FLOAT, ["b", 1, "l", "l"])]
    known += [helper.make_tensor_value_info("product", TensorProto.FLOAT, ["b", HEADS, "l", "l"])] * heads
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "masked", inputs, [logits], tensors, value_info=known)
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


def answers(model: ir.Model, path) -> list[np.ndarray]:
    ir.save(model, path)
    session = create_session(path)
    random = np.random.default_rng(0)
    feeds = [{"input_ids": random.integers(0, 5, mask.shape), "attention_mask": mask} for mask in MASKS]
    return [session.run(None, feed)[0] for feed in feeds]


@pytest.mark.parametrize("hidden", [HIDDEN, -10_000.0])
def test_a_mask_of_padding_is_made_in_six_operators(tmp_path, hidden):
    model = graph("padding", hidden)
    before = answers(model, tmp_path / "before.onnx")
    assert plain_mask(model) == 1
    for one, other in zip(before, answers(model, tmp_path / "after.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)
    found = Counter(node.op_type for node in model.graph)
    assert (found["Range"], found["And"], found["GreaterOrEqual"]) == (0, 0, 0)
    assert sum(found.values()) == 6 + 4


@pytest.mark.parametrize(
    ("kind", "hidden"),
    [("causal", HIDDEN), ("window", HIDDEN), ("both", HIDDEN), ("by length", -1.0), ("padding", 1.0)],
)
def test_a_mask_that_is_more_than_that_stays(tmp_path, kind, hidden):
    model = graph(kind, hidden)
    before = answers(model, tmp_path / "before.onnx")
    assert plain_mask(model) == 0
    assert "And" in {node.op_type for node in model.graph}
    for one, other in zip(before, answers(model, tmp_path / "after.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_added_where_a_token_stands_must_be_nothing():
    model = graph("padding")
    model.graph.initializers["zero"].const_value = ir.tensor(np.array(0.5, dtype=np.float32))
    assert plain_mask(model) == 0


def test_a_table_made_of_a_table_is_one(tmp_path):
    model = graph("padding")
    add = next(node for node in model.graph if node.name == "attention/Add")
    twice = ir.node("Max", [add.inputs[1], add.inputs[1]], name="twice")
    made, before_it = twice.outputs[0], add.inputs[1]
    made.name, made.type, made.shape = "twice", before_it.type, before_it.shape
    model.graph.insert_before(add, twice)
    add.replace_input_with(1, twice.outputs[0])
    before = answers(model, tmp_path / "before.onnx")
    assert plain_mask(model) == 1
    for one, other in zip(before, answers(model, tmp_path / "after.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_graph_without_a_mask_has_none_to_replace():
    model = graph("padding")
    model.graph.inputs[1].name = "something_else"
    assert plain_mask(model) == 0


@pytest.mark.parametrize("scaled", ["Mul", "Div"])
def test_a_product_of_queries_and_keys_takes_it_along(tmp_path, scaled):
    model = graph("padding", heads=True, scaled=scaled)
    before = answers(model, tmp_path / "before.onnx")
    assert plain_mask(model) == 1
    assert Counter(node.op_type for node in model.graph)["Add"] == 1, "float32 is for others too"
    assert mask_into_products(ir.load(tmp_path / "before.onnx")) == 0, "it is not the plain one"
    answers(model, tmp_path / "plain.onnx")
    again = ir.load(tmp_path / "plain.onnx")
    assert mask_into_products(again) == 1
    for one, other in zip(before, answers(again, tmp_path / "after.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape[1] == HEADS
    found = Counter(node.op_type for node in again.graph)
    assert (found["Add"], found["Where"], found["MatMul"]) == (0, 1, 1)


def left(model: ir.Model) -> int:
    """Return how many sums are left once the masks are plain and have gone into products where they may."""
    assert plain_mask(model) == 1
    mask_into_products(model)
    return Counter(node.op_type for node in model.graph)["Add"]


def test_what_a_softmax_could_leave_something_of_is_added():
    assert left(graph("padding", -50.0, heads=True)) == 1


def test_scores_of_no_product_are_added_to():
    assert left(graph("padding")) == 1


def test_scores_that_someone_else_reads_stay_without_it():
    for name in ("product", "scores"):
        model = graph("padding", heads=True)
        value = next(node for node in model.graph if node.outputs[0].name == name).outputs[0]
        beside = ir.node("Tanh", [value], name="beside")
        beside.outputs[0].name = "beside"
        model.graph.append(beside)
        model.graph.outputs.append(beside.outputs[0])
        assert left(model) == 1, name
    model = graph("padding", heads=True)
    model.graph.outputs.append(next(node for node in model.graph if node.name == "attention/Add").outputs[0])
    assert left(model) == 1


@pytest.mark.parametrize("scale", [-0.5, 0.0])
def test_a_scale_must_be_above_nothing(scale):
    model = graph("padding", heads=True)
    model.graph.initializers["scale"].const_value = ir.tensor(np.array(scale, dtype=np.float32))
    assert left(model) == 1
