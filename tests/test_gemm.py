"""Biases in products of bytes: the same numbers as before, fewer operators, and what is left alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from burnish_export.gemm import biases_into_products

WORDS, WIDTH, INNER, HEADS = 50, 8, 12, 2
RANDOM = np.random.default_rng(3)
STEP = np.float32(0.03)
IDS = RANDOM.integers(0, WORDS, (3, 7))


def product(name: str, source: str, inputs: int, outputs: int, bias: float = 1.0) -> tuple[list, dict]:
    """Return the nodes and constants of a product of bytes with a bias, of whole steps: ``source`` to ``name``."""
    nodes = [
        helper.make_node("QuantizeLinear", [source, "step", "middle"], [f"{name}_bytes"], name=f"{name}/Quantize"),
        helper.make_node("DequantizeLinear", [f"{name}_bytes", "step", "middle"], [f"{name}_left"]),
        helper.make_node("DequantizeLinear", [f"{name}_w", f"{name}_s", f"{name}_z"], [f"{name}_right"], axis=1),
        helper.make_node("MatMul", [f"{name}_left", f"{name}_right"], [f"{name}_product"], name=f"{name}/MatMul"),
        helper.make_node("Add", [f"{name}_product", f"{name}_b"], [name], name=f"{name}/Add"),
    ]
    scales = RANDOM.uniform(0.001, 0.004, outputs).astype(np.float32)
    constants = {
        f"{name}_w": RANDOM.integers(-127, 128, (inputs, outputs)).astype(np.int8),
        f"{name}_s": scales,
        f"{name}_z": np.zeros(outputs, dtype=np.int8),
        f"{name}_b": (np.rint(RANDOM.normal(size=outputs) * bias / (STEP * scales)) * STEP * scales).astype(np.float32),
    }
    return nodes, constants


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a layer: values by heads and back, two products around GELU, two residuals.

    ``bias`` is the size of the first product's bias, ``split`` the shape by which its outputs are parted into heads.
    """

    def write(*, bias: float = 1.0, split: tuple[int, ...] = (3, -1, HEADS, WIDTH // HEADS)) -> Path:
        parts = [
            product("value", "words", WIDTH, WIDTH, bias),
            product("out", "context", WIDTH, WIDTH),
            product("up", "normal", WIDTH, INNER),
            product("down", "bent", INNER, WIDTH),
        ]
        (value, out, up, down), constants = [nodes for nodes, _ in parts], {}
        for _, own in parts:
            constants |= own
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["words"], name="words/Gather"),
            *value,
            helper.make_node("Reshape", ["value", "split"], ["parted"], name="heads/Reshape"),
            helper.make_node("Transpose", ["parted"], ["turned"], perm=[0, 2, 1, 3]),
            helper.make_node("Softmax", ["turned"], ["soft"]),
            helper.make_node("Transpose", ["soft"], ["back"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["back", "whole"], ["context"], name="context/Reshape"),
            *out,
            helper.make_node("Add", ["out", "words"], ["residual"], name="residual/Add"),
            helper.make_node("LayerNormalization", ["residual", "gamma", "beta"], ["normal"], name="norm/Layer"),
            *up,
            helper.make_node("Gelu", ["up"], ["bent"], name="bent/Gelu"),
            *down,
            helper.make_node("Add", ["down", "normal"], ["last"], name="last/Add"),
            helper.make_node("LayerNormalization", ["last", "gamma", "beta"], ["logits"], name="end/Layer"),
        ]
        constants |= {
            "table": RANDOM.normal(size=(WORDS, WIDTH)).astype(np.float32),
            "gamma": RANDOM.uniform(0.5, 2, WIDTH).astype(np.float32),
            "beta": RANDOM.normal(size=WIDTH).astype(np.float32),
            "step": STEP,
            "middle": np.array(120, dtype=np.uint8),
            "split": np.array(split),
            "whole": np.array([3, -1, WIDTH]),
        }
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "l"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "l", WIDTH])
        tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
        known = [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["b", "l", INNER if name in {"up", "bent"} else WIDTH]
            )
            for name in ("words", "value", "context", "out", "residual", "normal", "up", "bent", "down", "last")
        ]
        graph = helper.make_graph(nodes, "layer", [ids], [logits], tensors, value_info=known)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return write


def rewritten(path: Path) -> tuple[int, Counter[str], Path]:
    """Return how many biases went in, the operators that are left, and the file."""
    model = ir.load(path)
    done = biases_into_products(model)
    out = path.with_name("rewritten.onnx")
    ir.save(model, out)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    return done, Counter(node.op_type for node in model.graph), out


def run(path: Path, *, optimized: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(
        None, {"input_ids": IDS}
    )[0]


@pytest.mark.parametrize("optimized", [False, True], ids=["as written", "by kernels of bytes"])
def test_the_numbers_are_those_of_the_products_and_sums(write, optimized):
    path = write()
    done, _, out = rewritten(path)
    assert done == 4
    before, after = (run(file, optimized=optimized) for file in (path, out))
    assert before.std() > 0.5
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_tokens_stay_rows_from_one_product_to_the_next(write):
    _, found, _ = rewritten(write())
    assert (found["Gemm"], found["MatMul"], found["QuantizeLinear"]) == (4, 0, 4)
    # in: the words, the context; back: the two parts of the last sum, which no product reads; and the heads' own
    assert found["Reshape"] == 5
    assert found["Add"] == 2, "the residuals"


def test_a_bias_too_large_for_the_sum_stays_beside_it(write):
    path = write(bias=1e9)
    done, found, out = rewritten(path)
    assert (done, found["Gemm"], found["MatMul"]) == (3, 3, 1)
    np.testing.assert_allclose(run(out, optimized=False), run(path, optimized=False), rtol=1e-6, atol=1e-5)


def test_a_shape_that_takes_a_dimension_over_still_finds_it(write):
    path = write(split=(0, 0, HEADS, WIDTH // HEADS))
    done, found, out = rewritten(path)
    assert (done, found["Reshape"]) == (4, 6)
    np.testing.assert_allclose(run(out, optimized=False), run(path, optimized=False), rtol=1e-6, atol=1e-5)


def test_what_several_read_and_what_is_an_output_keeps_its_name(write, tmp_path):
    path = write()
    model = ir.load(path)
    value = next(node for node in model.graph if node.name == "up/Add").outputs[0]
    model.graph.outputs.append(value)
    ir.save(model, path)
    done, _, out = rewritten(path)
    assert done == 4
    before, after = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(["logits", "up"], {"input_ids": IDS})
        for file in (path, out)
    )
    assert after[1].shape == (3, 7, INNER)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_graph_without_ids_is_left_alone(write):
    model = ir.load(write())
    model.graph.inputs[0].name = "pixels"
    assert biases_into_products(model) == 0


def test_a_product_that_someone_else_reads_stays(write):
    path = write()
    for watched in ("up", "down"):
        model = ir.load(path)
        value = next(node for node in model.graph if node.name == f"{watched}/MatMul").outputs[0]
        value.shape, value.type = (
            ir.Shape(["b", "l", INNER if watched == "up" else WIDTH]),
            ir.TensorType(ir.DataType.FLOAT),
        )
        if watched == "up":
            model.graph.outputs.append(value)
        else:
            model.graph.append(ir.node("Tanh", [value], name="beside"))
        assert biases_into_products(model) == 3


def test_what_is_added_must_be_a_vector(write):
    model = ir.load(write())
    add = next(node for node in model.graph if node.name == "down/Add")
    matrix = ir.tensor(np.zeros((7, WIDTH), dtype=np.float32), name="matrix")
    add.replace_input_with(1, ir.Value(name="matrix", shape=matrix.shape, const_value=matrix))
    assert biases_into_products(model) == 3


@pytest.mark.parametrize("shape", [["b", 1, WIDTH], ["b", "heads", "l", WIDTH], ["b", WIDTH]])
def test_what_is_not_of_the_tokens_is_left_alone(write, shape):
    model = ir.load(write())
    next(node for node in model.graph if node.name == "residual/Add").outputs[0].shape = ir.Shape(shape)
    next(node for node in model.graph if node.name == "norm/Layer").outputs[0].shape = ir.Shape(shape)
    assert biases_into_products(model) == 3, "the product behind it is not"


def test_what_looks_at_several_tokens_sees_texts(write):
    path = write()
    model = ir.load(path)
    norm = next(node for node in model.graph if node.name == "norm/Layer")
    norm.attributes["axis"] = ir.AttrInt64("axis", 1)
    ir.save(model, path)
    done, _, out = rewritten(path)
    assert done == 4
    np.testing.assert_allclose(run(out, optimized=False), run(path, optimized=False), rtol=1e-6, atol=1e-5)
