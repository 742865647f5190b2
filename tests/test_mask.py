"""The mask of padding: replaced where it is only that, found by what it computes, and the same numbers as before."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish_export.mask import plain_mask
from burnish_serve.session import create_session

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
    return [*nodes, helper.make_node("Where", ["seen", "zero", "hidden"], ["table"])]


def graph(kind: str, hidden: float = HIDDEN) -> ir.Model:
    """Return a model that adds the table to scores made of the ids."""
    nodes = [
        *table(kind),
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "ends"], ["scores"]),
        helper.make_node("Add", ["scores", "table"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["logits"]),
    ]
    constants = {
        "ends": np.array([1, 2]),
        "sides": np.array([1, 3]),
        "last": np.array([1]),
        "nothing": np.array(0),
        "one": np.array(1),
        "window": np.array(128),
        "zero": np.array(0, dtype=np.float32),
        "hidden": np.array(hidden, dtype=np.float32),
    }
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in ("input_ids", "attention_mask")]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 1, "l", "l"])
    known = helper.make_tensor_value_info("table", TensorProto.FLOAT, ["b", 1, "l", "l"])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "masked", inputs, [logits], tensors, value_info=[known])
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


@pytest.mark.parametrize("kind", ["causal", "window", "both"])
def test_a_mask_that_is_more_than_that_stays(tmp_path, kind):
    model = graph(kind)
    before = answers(model, tmp_path / "before.onnx")
    assert plain_mask(model) == 0
    assert "And" in {node.op_type for node in model.graph}
    for one, other in zip(before, answers(model, tmp_path / "after.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_added_where_a_token_stands_must_be_nothing():
    model = graph("padding")
    model.graph.initializers["zero"].const_value = ir.tensor(np.array(0.5, dtype=np.float32))
    assert plain_mask(model) == 0


def test_a_graph_without_a_mask_has_none_to_replace():
    model = graph("padding")
    model.graph.inputs[1].name = "something_else"
    assert plain_mask(model) == 0
