"""Rows in time-major order: the same bits, fewer copies, and graphs that would gain nothing left as they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers

from burnish_export import calibration, quantize
from burnish_export import graph as exported
from burnish_export.network import Network
from burnish_export.time_major import time_major
from burnish_serve.session import create_session
from burnish_serve.text import Encoded

LAYERS, TOKENS, LABELS = 2, 60, 3
SMALL = {"vocab_size": TOKENS, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with the int8 graph of a tagger, before its rows are ordered and as it becomes of that."""
    folder = tmp_path_factory.mktemp("time_major")
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, num_hidden_layers=LAYERS, num_labels=LABELS, initializer_range=0.3)
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    network = Network.of(model, config, outputs=("logits",))
    exported.to_onnx(network, folder / "fp32.onnx")
    random = np.random.default_rng(0)
    rows = [Encoded(random.integers(0, TOKENS, n), np.zeros(n, dtype=np.int64), truncated=False) for n in range(1, 30)]
    observed = calibration.observe(folder / "fp32.onnx", network, rows, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "time_major", lambda model: ir.save(model, folder / "rows.onnx"))
        quantize.quantize_static(folder / "fp32.onnx", observed, quantize.Recipe(), folder / "before.onnx")
    quantize.quantize_static(folder / "fp32.onnx", observed, quantize.Recipe(), folder / "after.onnx")
    onnx.checker.check_model(onnx.load(folder / "after.onnx"), full_check=True)
    return folder


@pytest.fixture
def model(folder) -> ir.Model:
    """Return the graph whose tokens are rows, and in the order of texts."""
    return ir.load(folder / "rows.onnx")


def parts(model: ir.Model, operator: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == operator]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 12), (17, 2), (3, 40)])
def test_the_bits_are_the_same(folder, shape):
    random = np.random.default_rng(1)
    ids = random.integers(0, TOKENS, shape)
    mask = random.integers(0, 2, shape)
    mask[:, 0] = 1
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}
    before, after = (create_session(folder / f"{name}.onnx").run(None, feed)[0] for name in ("before", "after"))
    assert after.shape == (*shape, LABELS)
    assert after.std() > 0.2
    np.testing.assert_array_equal(after, before)


def test_products_of_attention_read_without_a_copy(folder):
    found = {}
    for name in ("before", "after"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(folder / f"{name}-optimized.onnx")
        onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
        turned = [part.i for node in nodes for part in node.attribute if part.name.startswith("transBatch")]
        found[name] = Counter(node.op_type for node in nodes)["Transpose"], sum(turned)
    channels = 2
    assert found["before"] == (4 * LAYERS + channels, 0)
    copies, taken_in = found["after"]
    assert taken_in == 3 * LAYERS, "queries, keys and values"
    assert copies <= LAYERS + channels + 3, "the words come in, both parts of the last sum go out"


def test_a_graph_without_ids_is_left_alone(model):
    model.graph.inputs[0].name = "pixels"
    assert time_major(model) == 0


def test_rows_that_someone_reads_in_their_order_keep_it(model):
    gelu = parts(model, "Gelu")[0].outputs[0]
    sums = ir.node("CumSum", [gelu, model.graph.initializers["what_is_left"]], name="beside")
    model.graph.append(sums)
    before = [node.name for node in model.graph]
    assert time_major(model) == 0
    assert [node.name for node in model.graph] == before


def test_rows_that_are_an_output_keep_their_order(model):
    model.graph.outputs.append(parts(model, "Gelu")[0].outputs[0])
    assert time_major(model) == 0


def test_rows_as_the_matrix_of_another_product_keep_their_order(model):
    first, second = parts(model, "Gemm")[:2]
    second.replace_input_with(1, first.outputs[0])
    assert time_major(model) == 0


def test_shapes_that_are_not_of_texts_keep_their_order(model):
    node = parts(model, "Reshape")[1]
    node.outputs[0].shape = ir.Shape([None, 2, 8])
    assert time_major(model) == 0


def test_copies_are_not_added_for_nothing(model):
    """Where products cannot take the transpositions in, there is nothing to gain."""
    for node in parts(model, "MatMul"):
        for place, value in enumerate(node.inputs):
            if value.producer() is not None and value.producer().op_type == "Transpose":
                between = ir.node("Neg", [value])
                between.outputs[0].name = f"{node.outputs[0].name}_{place}"
                model.graph.insert_before(node, between)
                node.replace_input_with(place, between.outputs[0])
    assert time_major(model) == 0


def test_what_is_read_both_turned_and_not_is_found_by_both(model, folder):
    queries = parts(model, "Transpose")[0].inputs[0]
    beside = ir.node("Identity", [queries], name="beside")
    made = beside.outputs[0]
    made.name, made.shape, made.type = "beside", queries.shape, queries.type
    model.graph.append(beside)
    model.graph.outputs.append(made)
    ir.save(model, folder / "watched.onnx")
    assert time_major(model) == 3 * LAYERS
    ir.save(model, folder / "turned.onnx")
    ids = np.random.default_rng(2).integers(0, TOKENS, (3, 7))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    for one, other in zip(
        *(create_session(folder / name).run(None, feed) for name in ("watched.onnx", "turned.onnx")), strict=True
    ):
        np.testing.assert_array_equal(one, other)
