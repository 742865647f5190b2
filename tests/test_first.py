"""The first token alone: the same answers, a last layer of one token, and what others want whole left whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper

from burnish_export import graph as exported
from burnish_export import rewrite
from burnish_export.first import first_token_alone
from burnish_export.network import Network, TorchSession
from burnish_serve.session import create_session

SMALL = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDTH = 6


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, num_labels=3)
    return Network.of(transformers.BertForSequenceClassification(config), config, max_length=32)


@pytest.fixture(scope="module")
def feeds(network):
    random = np.random.default_rng(0)
    found = []
    for shape in ((1, 1), (1, 9), (4, 12)):
        ids = random.integers(1, 60, shape)
        mask = np.ones(shape, dtype=np.int64)
        mask[1:, shape[1] // 2 :] = 0
        found.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0})
    return found


def test_the_last_layer_has_one_token_and_the_answers_stay(network, feeds, tmp_path, monkeypatch):
    exported.to_onnx(network, tmp_path / "first.onnx")
    monkeypatch.setattr(rewrite, "first_token_alone", lambda _: 0)
    exported.to_onnx(network, tmp_path / "all.onnx")
    reference = TorchSession(network)
    sessions = [create_session(tmp_path / name) for name in ("all.onnx", "first.onnx")]
    for feed in feeds:
        right = reference.run(["logits"], feed)[0]
        for session in sessions:
            np.testing.assert_allclose(session.run(None, feed)[0], right, atol=1e-5)
    nodes = {node.name: node for node in ir.load(tmp_path / "first.onnx").graph}
    widths = {
        part: nodes[f"bert.encoder.layer.{layer}.{part}/MatMul"].outputs[0].shape[1]
        for layer in (0, 1)
        for part in ("attention.self.query", "attention.self.key", "attention.output.dense", "output.dense")
        if layer == 1
    }
    assert widths.pop("attention.self.key") == ir.SymbolicDim("length")
    assert set(widths.values()) == {1}
    assert nodes["bert.encoder.layer.0.output.dense/MatMul"].outputs[0].shape[1] == ir.SymbolicDim("length")


# Small graphs: table -> some operators -> the first token


def model(nodes: list, *, outputs: tuple[str, ...] = (), shapes: dict[str, list] | None = None) -> ir.Model:
    """Return a graph from ``words`` ``[b, l, WIDTH]`` over the nodes to ``last``, of which the first token is taken."""
    random = np.random.default_rng(0)
    constants = {
        "table": random.normal(size=(60, WIDTH)),
        "matrix": random.normal(size=(WIDTH, WIDTH)),
        "square": random.normal(size=(12, 12)),
        "vector": random.normal(size=WIDTH),
        "places": random.normal(size=(1, 12, WIDTH)),
    }
    constants = {name: array.astype(np.float32) for name, array in constants.items()} | {"zero": np.array(0)}
    all_nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"], name="words/Gather"),
        *nodes,
        helper.make_node("Gather", ["last", "zero"], ["logits"], axis=1, name="choice/Gather"),
    ]
    whole = ["b", 12, WIDTH]
    known = {name: whole for node in all_nodes[:-1] for name in node.output} | (shapes or {})
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in known.items()]
    found = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", known["last"][2]])]
    found += [value for value in values if value.name in outputs]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", 12])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(
        all_nodes, "small", [ids], found, tensors, value_info=[value for value in values if value.name not in outputs]
    )
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


def node(kind: str, *names: str, **attributes) -> object:
    *inputs, output = names
    return helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)


CASES = {
    "by place": ([node("Add", "words", "places", "sum"), node("Gelu", "sum", "last")], 2),
    "a vector beside": ([node("Mul", "words", "vector", "last")], 1),
    "product": ([node("MatMul", "words", "matrix", "last")], 1),
    "softmax along channels": ([node("Softmax", "words", "last", axis=-1)], 1),
    "softmax along tokens": ([node("Softmax", "words", "last", axis=1)], 0),
    "tokens turned": (
        [
            node("Transpose", "words", "turned", perm=[0, 2, 1]),
            node("Softmax", "turned", "soft", axis=1),
            node("Transpose", "soft", "last", perm=[0, 2, 1]),
        ],
        1,
    ),
    "along what was tokens": (
        [
            node("Transpose", "words", "turned", perm=[0, 2, 1]),
            node("Softmax", "turned", "soft", axis=-1),
            node("Transpose", "soft", "last", perm=[0, 2, 1]),
        ],
        1,
    ),
    "a product of tokens": (
        [
            node("Transpose", "words", "turned", perm=[0, 2, 1]),
            node("MatMul", "turned", "square", "soft"),
            node("Transpose", "soft", "last", perm=[0, 2, 1]),
        ],
        1,
    ),
    "one behind another": ([node("Tanh", "words", "bent"), node("Concat", "bent", "words", "last", axis=1)], 0),
    "side by side": ([node("Tanh", "words", "bent"), node("Concat", "bent", "words", "last", axis=2)], 2),
    "twice the same": ([node("Mul", "words", "words", "last")], 0),
    "read whole too": (
        [node("Tanh", "words", "bent"), node("ReduceSum", "bent", "all"), node("Add", "bent", "all", "last")],
        1,
    ),
    "a product from the left": (
        [node("Transpose", "words", "turned", perm=[0, 2, 1]), node("MatMul", "words", "turned", "scores"),
         node("MatMul", "scores", "words", "last")],
        2,
    ),
}  # fmt: skip
LONGER = {"one behind another": {"last": ["b", 24, WIDTH]}, "side by side": {"last": ["b", 12, 2 * WIDTH]}}
SHAPES = {"turned": ["b", WIDTH, 12], "soft": ["b", WIDTH, 12], "all": [1, 1, 1], "scores": ["b", 12, 12]}


@pytest.mark.parametrize("case", CASES)
def test_the_choice_goes_back_as_far_as_it_may(case, tmp_path):
    nodes, passed = CASES[case]
    shapes = {**SHAPES, **LONGER.get(case, {})}
    made = model(nodes, shapes={name: shape for name, shape in shapes.items() if any(name in n.output for n in nodes)})
    feed = {"input_ids": np.random.default_rng(1).integers(0, 60, (3, 12))}
    ir.save(made, tmp_path / "before.onnx")
    before = create_session(tmp_path / "before.onnx").run(None, feed)
    assert first_token_alone(made.graph) == passed
    ir.save(made, tmp_path / "after.onnx")
    after = create_session(tmp_path / "after.onnx").run(None, feed)
    np.testing.assert_allclose(before[0], after[0], rtol=1e-5, atol=1e-6)


def test_an_output_stays_whole(tmp_path):
    made = model([node("Tanh", "words", "bent"), node("MatMul", "bent", "matrix", "last")], outputs=("bent",))
    assert first_token_alone(made.graph) == 1
    ir.save(made, tmp_path / "after.onnx")
    session = create_session(tmp_path / "after.onnx")
    assert [value.shape for value in session.run(None, {"input_ids": np.ones((2, 12), dtype=np.int64)})] == [
        (2, WIDTH),
        (2, 12, WIDTH),
    ]


def test_another_token_or_a_head_on_all_tokens_is_not_moved():
    made = model([node("Tanh", "words", "last")])
    made.graph.initializers["zero"].const_value = ir.tensor(np.array(1))
    assert first_token_alone(made.graph) == 0
    made = model([node("Tanh", "words", "last")], outputs=("last",))
    assert first_token_alone(made.graph) == 0
