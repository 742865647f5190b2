"""What is counted as fused is counted rightly, what is missing is said, and rewrites change no answer."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from transformers.activations import ACT2FN

from burnish_export import fusion, graph, proof, rewrite
from burnish_export.architectures import PRODUCTS, due
from burnish_export.network import Network, TorchSession
from burnish_serve.errors import FusionError
from burnish_serve.session import create_session
from test_architectures import Made, make

pytestmark = pytest.mark.usefixtures("one_thread")
SPELLED_OUT = ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python", "gelu_python_tanh")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Made:
    """Return a BERT of two layers with a head for texts."""
    return make(tmp_path_factory.mktemp("fusion"), "bert", "text")


def unknown(network: Network) -> Network:
    """Return the model under a type that nobody knows."""
    config = copy.deepcopy(network.config)
    config.model_type = "bertolt"
    return dataclasses.replace(network, config=config)


def changed(path: Path, out: Path, change: Callable[[ir.Graph], None]) -> Path:
    """Write a graph with a change."""
    model = ir.load(path)
    change(model.graph)
    ir.save(model, out)
    return out


def constant(graph: ir.Graph, name: str, number: float) -> ir.Value:
    tensor = ir.tensor(np.float32(number), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def nodes_of(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == op_type]


def test_the_session_that_is_counted_is_the_runners(bert):
    session = fusion.fused(bert.fp32)
    assert session["LayerNormalization"] == 5
    assert session["SkipLayerNormalization"] == 0, "the runner turns that off"
    assert [path.name for path in bert.fp32.parent.glob("fused-*")] == [], "nothing stays beside the graph"


# Faults that the report must see


def in_pieces(graph: ir.Graph) -> None:
    """Write the first Gelu out as x · (0.5 + 0.5 · erf(x · √½)), of which ONNX Runtime makes no Gelu either."""
    gelu = nodes_of(graph, "Gelu")[0]
    (x,), half, root = gelu.inputs, constant(graph, "half", 0.5), constant(graph, "root", 0.5**0.5)
    nodes = [ir.node("Mul", [x, root])]
    for op_type, others in (("Erf", []), ("Mul", [half]), ("Add", [half]), ("Mul", [x])):
        nodes.append(ir.node(op_type, [nodes[-1].outputs[0], *others]))
    for number, node in enumerate(nodes):
        node.outputs[0].name = f"piece_{number}"
    graph.insert_before(gelu, nodes)
    ir.convenience.replace_all_uses_with(gelu.outputs[0], nodes[-1].outputs[0])
    graph.remove(gelu, safe=True)


def test_a_gelu_in_pieces_is_an_error_that_names_it(bert, tmp_path):
    broken = changed(bert.fp32, tmp_path / "broken.onnx", in_pieces)
    cases = proof.make_cases(TorchSession(bert.network), bert.network, [])
    proof.prove(cases, create_session(broken), bert.network.outputs, "right all the same", exact=True)
    with pytest.raises(FusionError) as caught:
        fusion.check(bert.network, broken)
    assert caught.value.exit_status == 1
    for told in (
        "bert",
        "the graph has 1 Gelu where 2 are due",
        "the session has 1 BiasGelu where 2 are due",
        "torch ",
    ):
        assert told in str(caught.value)


def test_a_gelu_in_pieces_is_a_warning_where_the_architecture_is_not_known(bert, tmp_path):
    broken = changed(bert.fp32, tmp_path / "broken.onnx", in_pieces)
    report = fusion.check(unknown(bert.network), broken)
    assert report.missing == ("the graph has 1 Erf, a piece of Gelu",)
    assert report.to_dict()["expected"] is None
    (warning,) = report.warnings
    for told in ("bertolt", "1 Gelu", "5 LayerNormalization", report.missing[0]):
        assert told in warning


def test_an_unknown_architecture_is_a_warning_although_nothing_is_in_pieces(bert):
    report = fusion.check(unknown(bert.network), bert.fp32, bert.int8)
    assert report.missing == ()
    (warning,) = report.warnings
    assert "nothing is known to be in pieces" in warning


def test_an_unknown_head_is_a_warning(bert):
    class BertForSomethingNew(type(bert.network.module)):
        """A head that nobody has listed."""

    module = copy.copy(bert.network.module)
    module.__class__ = BertForSomethingNew
    (warning,) = fusion.check(dataclasses.replace(bert.network, module=module), bert.fp32).warnings
    assert "BertForSomethingNew" in warning


def test_what_the_session_does_not_fuse_is_an_error(bert, tmp_path):
    def watch(graph: ir.Graph) -> None:  # a sum that someone else reads cannot go into the Gelu behind it
        graph.outputs.append(nodes_of(graph, "Gelu")[0].inputs[0])

    broken = changed(bert.fp32, tmp_path / "broken.onnx", watch)
    with pytest.raises(FusionError, match=r"slowly: the session has 1 BiasGelu where 2 are due; that is"):
        fusion.check(bert.network, broken)


def test_a_product_that_does_not_come_back_as_float32_at_once_is_said(bert, tmp_path):
    def rounded(graph: ir.Graph) -> None:  # the output goes through bytes too, as in a model that is quantized whole
        product = nodes_of(graph, "Gemm")[0]
        quantize = next(node for node in nodes_of(graph, "QuantizeLinear"))
        nodes = [ir.node("QuantizeLinear", [product.outputs[0], *quantize.inputs[1:]])]
        nodes.append(ir.node("DequantizeLinear", [nodes[0].outputs[0], *quantize.inputs[1:]]))
        ir.convenience.replace_all_uses_with(product.outputs[0], nodes[1].outputs[0])
        nodes[0].replace_input_with(0, product.outputs[0])
        for node in nodes:
            node.outputs[0].name = f"rounded_{node.op_type}"
        graph.insert_after(product, nodes)

    broken = changed(bert.int8, tmp_path / "broken.onnx", rounded)
    said = "the int8 session has 6 MatMulIntegerToFloat and 8 QGemm where 14 are due, and 1 DequantizeLinear"
    with pytest.raises(FusionError, match=said):
        fusion.check(bert.network, bert.fp32, broken)
    (warning,) = fusion.check(unknown(bert.network), bert.fp32, broken).warnings
    assert said in warning


# What is due


def test_what_is_due_grows_with_the_layers():
    small, large = (due(transformers.BertConfig(num_hidden_layers=layers), "token") for layers in (6, 12))
    assert (small[PRODUCTS], small["LayerNormalization"], small["BiasGelu"]) == (37, 13, 6)
    assert (large[PRODUCTS], large["LayerNormalization"], large["BiasGelu"]) == (73, 25, 12)


@pytest.mark.parametrize(
    ("config", "head", "wanted"),
    [
        (transformers.BertConfig(hidden_act="relu"), "text", {"Gelu": 0, "BiasGelu": 0, "FastGelu": 0}),
        (transformers.BertConfig(hidden_act="gelu_new"), "text", {"Gelu": 12, "BiasGelu": 0, "FastGelu": 12}),
        (transformers.BertConfig(), "pooled", {PRODUCTS: 73, "FusedGemm": 0}),
        (transformers.DistilBertConfig(), "text", {PRODUCTS: 38, "BiasGelu": 6, "FusedGemm": 1}),
        (transformers.ElectraConfig(embedding_size=8, hidden_size=8), "token", {PRODUCTS: 73}),
        (
            transformers.ElectraConfig(embedding_size=4, hidden_size=8),
            "text",
            {PRODUCTS: 75, "Gelu": 13, "BiasGelu": 12},
        ),
        (transformers.AlbertConfig(num_hidden_layers=3, inner_group_num=2), "token", {PRODUCTS: 38, "FastGelu": 6}),
        (transformers.DebertaV2Config(num_hidden_layers=3), "token", {"FusedMatMul": 3, "LayerNormalization": 7}),
        (
            transformers.DebertaV2Config(
                num_hidden_layers=3,
                relative_attention=True,
                pos_att_type="c2p|p2c",
                conv_kernel_size=3,
                conv_act="gelu",
            ),
            "text",
            {"FusedMatMul": 9, "LayerNormalization": 8, "Gelu": 5, "BiasGelu": 3},
        ),
        (transformers.ModernBertConfig(), "token", {PRODUCTS: 90, "LayerNormalization": 46, "Gelu": 23, "BiasGelu": 0}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "model_type", ""),
)
def test_what_is_due_follows_the_configuration(config, head, wanted):
    assert {name: due(config, head)[name] for name in wanted} == wanted


# Rewrites


class Activations(torch.nn.Module):
    """Every GELU that transformers spells out, one after the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in SPELLED_OUT:
            x = 3 * ACT2FN[name](x)
        return x


def test_a_gelu_that_is_spelled_out_becomes_one_operator(tmp_path):
    module, x = Activations().eval(), torch.linspace(-6, 6, 97)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        model = torch.onnx.export(module, (x,), dynamo=True, opset_version=graph.OPSET, verbose=False).model
    before = Counter(node.op_type for node in model.graph)
    assert (before["Tanh"], before["Erf"], before["Gelu"]) == (4, 1, 0)
    assert rewrite.simplify(model) == {"Gelu": 5, "Gemm": 0, "sums": 0, "masks": 0, "first": 0, "constants": 0}
    assert Counter(node.op_type for node in model.graph) == {"Gelu": 5, "Mul": 5}, "three times each"
    ir.save(model, tmp_path / "gelu.onnx")
    (got,) = create_session(tmp_path / "gelu.onnx").run(None, {model.graph.inputs[0].name: x.numpy()})
    np.testing.assert_allclose(got, module(x).numpy(), rtol=1e-5, atol=2e-5)


def test_other_numbers_are_not_a_gelu():
    x = ir.val("x", ir.DataType.FLOAT, (2,))
    whole = ir.Graph([x], [], nodes=[], opset_imports={"": graph.OPSET})
    half, one, other = (constant(whole, name, number) for name, number in (("half", 0.5), ("one", 1), ("other", 1.5)))
    steps = [("Div", x, other), ("Erf", None, None), ("Add", None, one), ("Mul", x, half)]
    nodes: list[ir.Node] = []
    for op_type, left, right in steps:
        left = nodes[-1].outputs[0] if left is None else left
        nodes.append(ir.node(op_type, [left] if right is None else [left, right]))
    nodes.append(ir.node("Mul", [nodes[3].outputs[0], nodes[2].outputs[0]]))
    whole.extend(nodes)
    whole.outputs.append(nodes[-1].outputs[0])
    model = ir.Model(whole, ir_version=10)
    assert rewrite.fuse_gelu(model) == 0
    other.const_value = ir.tensor(np.float32(2**0.5))
    assert rewrite.fuse_gelu(model) == 1


def test_what_depends_on_weights_alone_is_computed(tmp_path):
    x = ir.val("x", ir.DataType.FLOAT, (2,))
    whole = ir.Graph([x], [], nodes=[], opset_imports={"": graph.OPSET})
    one = constant(whole, "one", 1.0)
    two, e, minus = ir.node("Add", [one, one]), ir.node("Exp", [one]), ir.node("Neg", [one])
    both = ir.node("Mul", [two.outputs[0], e.outputs[0]])
    product = ir.node("Mul", [x, both.outputs[0]])
    for name, node in (("two", two), ("e", e), ("both", both), ("product", product), ("minus", minus)):
        node.outputs[0].name = name
    whole.extend([two, e, both, product, minus])
    whole.outputs.extend([product.outputs[0], minus.outputs[0]])
    model = ir.Model(whole, ir_version=10)
    assert rewrite.compute_constants(model) == 1
    assert [node.op_type for node in model.graph] == ["Mul", "Neg"], "an output stays what it is"
    assert set(model.graph.initializers) == {"one", "both"}
    ir.save(model, tmp_path / "small.onnx")
    got, negative = create_session(tmp_path / "small.onnx").run(None, {"x": np.array([1, 2], dtype=np.float32)})
    np.testing.assert_allclose(got, 2 * np.e * np.array([1, 2]), rtol=1e-6)
    assert negative == -1
    assert rewrite.compute_constants(model) == 0


class Head(torch.nn.Module):
    """The mean of real tokens, and a linear layer on it, as heads have them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 3)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = mask[:, :, None]
        return self.linear((hidden * weights).sum(1) / weights.sum(1))


def test_a_head_becomes_products_that_need_no_neighbours(tmp_path):
    torch.manual_seed(0)
    module = Head().eval()
    hidden, mask = torch.randn(3, 5, 8), torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    length = torch.export.Dim("length", min=2, max=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        model = torch.onnx.export(
            module,
            (hidden, mask),
            dynamo=True,
            opset_version=graph.OPSET,
            verbose=False,
            input_names=["hidden", "mask"],
            dynamic_shapes=(
                {0: torch.export.Dim("rows", min=2, max=9), 1: length},
                {0: torch.export.Dim.AUTO, 1: length},
            ),
        ).model
    before = Counter(node.op_type for node in model.graph)
    assert (before["Gemm"], before["ReduceSum"], before["MatMul"]) == (1, 2, 0)
    assert rewrite.simplify(model) == {"Gelu": 0, "Gemm": 1, "sums": 1, "masks": 0, "first": 0, "constants": 0}
    after = Counter(node.op_type for node in model.graph)
    assert (after["Gemm"], after["ReduceSum"], after["MatMul"], after["Add"]) == (0, 1, 2, 1), (
        "the count is a sum still"
    )
    assert {value.name for value in model.graph.initializers.values() if not value.uses()} == set()
    graph.name_by_module(model.graph)
    assert [node.name for node in nodes_of(model.graph, "MatMul")][-1] == "linear/MatMul"
    ir.save(model, tmp_path / "head.onnx")
    (got,) = create_session(tmp_path / "head.onnx").run(None, {"hidden": hidden.numpy(), "mask": mask.numpy()})
    np.testing.assert_allclose(got, module(hidden, mask).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changed", [{"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}])
def test_another_gemm_is_left_alone(changed):
    x = ir.val("x", ir.DataType.FLOAT, (2, 2))
    whole = ir.Graph([x], [], nodes=[], opset_imports={"": graph.OPSET})
    matrix, bias = constant(whole, "matrix", 1.0), constant(whole, "bias", 1.0)
    node = ir.node("Gemm", [x, matrix, bias], attributes=changed)
    whole.append(node)
    whole.outputs.append(node.outputs[0])
    assert rewrite.part_gemm(whole) == 0
    assert nodes_of(whole, "Gemm") == [node]
