"""Heads that add nothing are not in the graph, whoever made them so, and the answers are the model's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from burnish_export import ExportConfig, calibration, export, fusion, graph, proof, quantize
from burnish_export.heads import without_idle_heads
from burnish_export.network import Network, TorchSession
from burnish_serve import load
from burnish_serve.session import create_session
from burnish_train.methods.depth import encoder_of
from burnish_train.methods.silent import attentions
from exporting import TEXTS, in_transformers
from test_architectures import MORE, logits_of, make_network, make_rows

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")
HEADS, SIZE, WIDTH = 4, 8, 32
IDLE = ([0, 2, 3], [1])
"""Of the first layer and of the second."""
CASES = [(architecture, {}) for architecture in MORE] + [("deberta-v2", {"share_att_key": False})]


def silence(network: Network, idle: tuple[list[int], ...] = IDLE) -> int:
    """Let heads add nothing, by zeros where they are read and nowhere else; return how many."""
    found = attentions(encoder_of(network.module))
    with torch.no_grad():
        for layers, numbers in zip(found, idle, strict=False):
            layers[-1].weight.unflatten(1, (HEADS, SIZE))[:, numbers] = 0
    return sum(len(numbers) for _, numbers in zip(found, idle, strict=False))


def widths(path) -> list[tuple[int, ...]]:
    """Return the shapes of the matrices in constant products."""
    nodes = [node for node in ir.load(path).graph if node.op_type in {"MatMul", "Gemm"}]
    matrices = [v.const_value for node in nodes for v in node.inputs if v is not None and v.const_value is not None]
    return [tuple(matrix.shape) for matrix in matrices if len(matrix.shape) == 2]


@pytest.mark.parametrize(("architecture", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_graph_is_narrower_and_answers_as_the_model_does(architecture, changes, tmp_path):
    network = make_network(architecture, "token", **changes)
    idle = silence(network)
    shapes = {name: tuple(weight.shape) for name, weight in network.module.named_parameters()}
    lean, count = without_idle_heads(network)
    assert count == idle
    assert {name: tuple(weight.shape) for name, weight in network.module.named_parameters()} == shapes
    fp32, int8 = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    graph.to_onnx(lean, fp32)
    found = widths(fp32)
    parts = 3 if architecture == "modernbert" else 1  # queries, keys and values are one product there
    for numbers in IDLE if architecture != "albert" else (IDLE[0], IDLE[0]):
        width = (HEADS - len(numbers)) * SIZE
        wanted = [(WIDTH, width * parts)] * (3 // parts) + [(width, WIDTH)]
        assert [shape for shape in found if width in shape or width * parts in shape][: len(wanted)] == wanted
        for shape in wanted:
            found.remove(shape)
    reference, session = TorchSession(network), create_session(fp32)
    proof.prove(proof.make_cases(reference, network, []), session, network.outputs, "fp32", exact=True)
    rows = make_rows(40, 30)
    observed = calibration.observe(fp32, lean, rows, tmp_path)
    quantize.quantize_static(fp32, observed, quantize.Recipe(), int8)
    assert fusion.check(network, fp32, int8).missing == ()
    feed = network.feed(rows[:8])
    (right,), (ours,) = (logits_of(each, network, feed) for each in (reference, create_session(int8)))
    assert 1e-4 < np.abs(ours - right).max() / np.abs(right).max() < 0.1, "is it quantized, and well?"


def test_int8_of_fewer_heads_has_as_few_copies_and_gives_the_same_bits_in_every_batch(tmp_path):
    made = {}
    for name in ("whole", "lean"):
        network = make_network("bert", "token")
        if name == "lean":
            silence(network, ([0, 2], [1, 2]))
        lean, _ = without_idle_heads(network)
        graph.to_onnx(lean, tmp_path / f"{name}.onnx")
        observed = calibration.observe(tmp_path / f"{name}.onnx", lean, make_rows(40, 30), tmp_path)
        made[name] = tmp_path / f"{name} int8.onnx"
        quantize.quantize_static(tmp_path / f"{name}.onnx", observed, quantize.Recipe(), made[name])
    assert fusion.fused(made["lean"]) == fusion.fused(made["whole"]), "time-major rows, and the mask as a channel"
    session, rows = create_session(made["lean"]), make_rows(12, 30, seed=1)
    (together,) = logits_of(session, network, network.feed(rows))
    alone = [logits_of(session, network, network.feed([row]))[0] for row in rows]
    np.testing.assert_array_equal(np.concatenate(alone), together)


def test_a_layer_keeps_one_head_where_none_adds_anything():
    network = make_network("bert", "text")
    with torch.no_grad():
        for layers in attentions(network.module.base_model):
            layers[-1].weight.zero_()
    lean, count = without_idle_heads(network)
    assert count == 2 * (HEADS - 1)
    feed = network.feed(make_rows(6, 20))
    np.testing.assert_array_equal(*(TorchSession(one).run(None, feed)[0] for one in (network, lean)))


def test_a_model_without_such_heads_and_one_that_is_not_known_are_left_alone():
    network = make_network("bert", "text")
    assert without_idle_heads(network) == (network, 0)
    config = transformers.FunnelConfig(vocab_size=60, block_sizes=[1], d_model=32, n_head=2, d_head=16, d_inner=64)
    model = transformers.FunnelForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    other = Network.of(model, config)
    assert without_idle_heads(other) == (other, 0)


def test_a_checkpoint_of_fewer_heads_becomes_a_bundle_of_fewer_heads(make_checkpoint, tmp_path):
    folder, told = make_checkpoint(keep_heads=0.5), []
    export(ExportConfig(checkpoint=str(folder), out=tmp_path / "bundle", seconds=0.01), log=told.append)
    assert "2 attention heads that add nothing are left out of the graph" in told
    shapes = [
        tuple(value.shape) for value in ir.load(tmp_path / "bundle" / "onnx" / "model.onnx").graph.initializers.values()
    ]
    assert (shapes.count((32, 16)), shapes.count((16, 32))) == (6, 2)
    model = load(tmp_path / "bundle", variant="fp32", device="cpu")
    ours = np.stack([np.asarray(row) for row in model.outputs(model.examine(TEXTS))])
    np.testing.assert_allclose(ours, in_transformers(folder, TEXTS, 16), atol=1e-4)
    assert load(tmp_path / "bundle", device="cpu").variant == "int8"
