"""Faults planted in an export, each of which the proof must find."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper

from burnish_export import export, graph, proof
from burnish_export.cli import export as command_export
from burnish_serve.errors import ProofError
from exporting import nothing_left, swapped_labels

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")


class IgnoresTheMask(graph.Exported):
    """What an exporter makes that takes the mask for a constant."""

    def forward(self, *tensors):
        given = dict(zip(self.inputs, tensors, strict=True))
        return super().forward(*{**given, "attention_mask": torch.ones_like(given["attention_mask"])}.values())


def test_a_graph_that_ignores_the_mask_is_never_written(export_config, monkeypatch):
    monkeypatch.setattr(graph, "Exported", IgnoresTheMask)
    with pytest.raises(ProofError, match=r"fp32 does not answer as the model does: .*nothing was written") as caught:
        export(export_config())
    assert caught.value.exit_status == 4
    assert nothing_left(export_config())


@pytest.mark.parametrize(("factor", "said"), [(1.001, "does not answer as the model does"), (np.nan, "not numbers")])
def test_a_graph_with_other_weights_is_never_written(export_config, monkeypatch, bundle, factor, said):
    def to_onnx(network, path):
        model = onnx.load(bundle / "onnx" / "model.onnx")
        bias = network.module.classifier.bias.detach().numpy()
        (found,) = [item for item in model.graph.initializer if np.array_equal(numpy_helper.to_array(item), bias)]
        found.CopyFrom(numpy_helper.from_array((bias + 0.1) * np.float32(factor), found.name))
        onnx.save(model, path)

    monkeypatch.setattr(graph, "to_onnx", to_onnx)
    with pytest.raises(ProofError, match=said):
        export(export_config())
    assert nothing_left(export_config())


def other_epsilon(model: onnx.ModelProto) -> None:
    """Give every LayerNormalization the epsilon of PyTorch's default, not BERT's."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "LayerNormalization" and attribute.name == "epsilon":
                assert attribute.f == np.float32(1e-12)
                attribute.f = 1e-5


def unchanged(model: onnx.ModelProto) -> None:
    """Change nothing: the way that the faults take is not itself the fault."""


@pytest.mark.parametrize(
    ("fault", "status"),
    [(other_epsilon, 4), (swapped_labels, 4), (unchanged, 0)],
    ids=lambda f: getattr(f, "__name__", f),
)
def test_a_planted_fault_is_exit_4_and_no_bundle(export_config, monkeypatch, bundle, tiny_checkpoint, fault, status):
    def to_onnx(network, path):
        model = onnx.load(bundle / "onnx" / "model.onnx")
        fault(model)
        onnx.checker.check_model(model)
        onnx.save(model, path)

    monkeypatch.setattr(graph, "to_onnx", to_onnx)
    out = export_config().out
    result = CliRunner().invoke(command_export, [str(tiny_checkpoint), "--out", str(out), "--precision", "fp32"])
    assert result.exit_code == status, result.stderr
    assert out.exists() == (status == 0)
    if status:
        assert "fp32 does not answer as the model does" in result.stderr
        assert nothing_left(export_config())


def test_differences_up_to_rounding_pass_and_larger_ones_do_not():
    wanted = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 5
    scale = float(np.abs(wanted).max())
    near = wanted + np.float32(0.5e-5 * scale)
    found = proof.compare([wanted], [near], "fp32", exact=True)
    assert found.max_difference == pytest.approx(0.5e-5 * scale, rel=0.1)
    assert (found.scale, found.decisions, found.label_changes) == (scale, 50, 0)
    with pytest.raises(ProofError, match="logits differ by up to"):
        proof.compare([wanted], [wanted + np.float32(2e-5 * scale)], "fp32", exact=True)
    assert proof.compare([wanted], [wanted[:, ::-1]], "int8", exact=False).label_changes > 10
    for wrong in (wanted[:, :2], np.where(wanted == wanted.max(), np.inf, wanted)):
        with pytest.raises(ProofError, match="not numbers"):
            proof.compare([wanted], [wrong], "int8", exact=False)
