"""Calibration and static int8, on a graph of a few kilobytes whose values are computed again in numpy."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from burnish_export import calibration
from burnish_export.calibration import Observed
from burnish_export.network import Network
from burnish_export.quantize import Recipe, can_saturate, quantize_static
from burnish_serve.session import create_session
from burnish_serve.text import Encoded

VOCABULARY, WIDTH, INNER, LABELS = 90, 8, 16, 5
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "table": RANDOM.normal(size=(VOCABULARY, WIDTH)) * np.linspace(0.1, 3, VOCABULARY)[:, None],
    "gamma": RANDOM.uniform(0.5, 2, WIDTH),
    "beta": RANDOM.normal(size=WIDTH),
    "up": RANDOM.normal(size=(WIDTH, INNER)),
    "down": RANDOM.normal(size=(INNER, LABELS)),
    "side": RANDOM.normal(size=(WIDTH, LABELS)),
}
WEIGHTS = {name: values.astype(np.float32) for name, values in WEIGHTS.items()}
ROWS = [
    Encoded(RANDOM.integers(1, VOCABULARY, length), np.zeros(length, dtype=np.int64), truncated=False)
    for length in RANDOM.integers(1, 12, 60)
]
NETWORK = Network(
    module=None,
    config=SimpleNamespace(vocab_size=VOCABULARY),
    inputs=("input_ids", "attention_mask"),
    outputs=("logits",),
    max_length=16,
    pad_token_id=0,
)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes the graph: words, LayerNormalization, two products around GELU, one beside."""

    def write(*, residual: bool = False, **changed: np.ndarray) -> Path:
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["words"], name="words/Gather"),
            helper.make_node("LayerNormalization", ["words", "gamma", "beta"], ["normal"], name="norm/Layer"),
            helper.make_node("MatMul", ["normal", "up"], ["raised"], name="block.up/MatMul"),
            helper.make_node("Gelu", ["raised"], ["bent"], name="block/Gelu"),
            helper.make_node("MatMul", ["bent", "down"], ["lowered"], name="block.down/MatMul"),
            helper.make_node("MatMul", ["normal", "side"], ["beside"], name="block.side/MatMul"),
            helper.make_node("Add", ["lowered", "beside"], ["sum"], name="block/Add"),
            helper.make_node("Cast", ["attention_mask"], ["mask"], name="mask/Cast", to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["wide"], name="mask/Unsqueeze"),
        ]
        if residual:
            nodes.append(helper.make_node("ReduceMean", ["normal", "last"], ["mean"], name="mean/ReduceMean"))
            nodes.append(helper.make_node("Add", ["sum", "mean"], ["all"], name="mean/Add"))
        nodes.append(helper.make_node("Mul", ["all" if residual else "sum", "wide"], ["logits"], name="mask/Mul"))
        constants = {**WEIGHTS, **changed, "last": np.array([2])}
        ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "l"]) for name in NETWORK.inputs]
        out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "l", LABELS])
        tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
        graph = helper.make_graph(nodes, "small", ids, [out], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return write


def answers(path: Path) -> np.ndarray:
    feed = NETWORK.feed(ROWS)
    return create_session(path).run(None, feed)[0][feed["attention_mask"].astype(bool)]


def error(path: Path, other: Path) -> float:
    wanted = answers(path)
    return float(np.mean((answers(other) - wanted) ** 2) / np.var(wanted))


def operators(path: Path) -> Counter:
    return Counter(node.op_type for node in ir.load(path).graph)


def normalized() -> np.ndarray:
    """Return what flows into the first products, ``[tokens, channels]``, in numpy and without padding."""
    words = WEIGHTS["table"][np.concatenate([row.ids for row in ROWS])].astype(np.float64)
    centered = words - words.mean(axis=1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-5) * WEIGHTS["gamma"] + WEIGHTS["beta"]


# Calibration


def test_what_is_observed_are_the_values_of_real_tokens(write, tmp_path):
    observed = calibration.observe(write(), NETWORK, ROWS, tmp_path)
    assert set(observed) == {"normal", "bent"}
    values = normalized()
    np.testing.assert_allclose(observed["normal"].low, np.minimum(values.min(axis=0), 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(observed["normal"].high, np.maximum(values.max(axis=0), 0), rtol=1e-4, atol=1e-6)
    span = observed["normal"].span
    wanted, _ = np.histogram(values, bins=calibration.BINS, range=span)
    assert observed["normal"].counts.sum() == wanted.sum() == values.size
    assert np.abs(np.cumsum(observed["normal"].counts) - np.cumsum(wanted)).max() <= 3, "rounding at the edge of a bin"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def seen(values: np.ndarray) -> Observed:
    low, high = min(0.0, values.min()), max(0.0, values.max())
    counts, _ = np.histogram(values, bins=calibration.BINS, range=(low, high))
    return Observed(np.float32([low]), np.float32([high]), counts)


def test_a_percentile_leaves_out_the_outermost_values():
    values = np.random.default_rng(1).normal(size=200_000)
    values[0], values[1] = 40, -25
    low, high = calibration.limits(seen(values), "percentile")
    width = 65 / calibration.BINS
    assert low == pytest.approx(np.quantile(values, 0.00005), abs=1.01 * width)
    assert high == pytest.approx(np.quantile(values, 0.99995), abs=1.01 * width)
    assert calibration.limits(seen(values), "minmax") == pytest.approx((-25, 40))


def test_zero_stays_inside_every_range():
    values = np.random.default_rng(1).uniform(5, 9, size=10_000)
    for method in calibration.METHODS:
        low, high = calibration.limits(seen(values), method)
        assert low == 0 < 8 < high


def test_entropy_clips_a_far_outlier_and_keeps_an_even_spread():
    values = np.random.default_rng(1).normal(size=100_000)
    values[0] = 60
    low, high = calibration.limits(seen(values), "entropy")
    assert 3 < high < 12
    assert -high <= low < -3
    even = np.random.default_rng(1).uniform(-1, 1, size=100_000)
    assert calibration.limits(seen(even), "entropy") == pytest.approx((-1, 1), abs=0.07)


def test_names_of_modules_that_share_an_input():
    def node(name):
        return SimpleNamespace(name=f"{name}/MatMul")

    assert calibration.group_name([node("layer.0.output.dense")]) == "layer.0.output.dense"
    shared = [node(f"layer.0.attention.self.{part}") for part in ("query", "key", "value")]
    assert calibration.group_name(shared) == "layer.0.attention.self.{query,key,value}"
    assert calibration.group_name([node("a.b"), node("c.d.e")]) == "{a.b,c.d.e}"


# Static int8


def test_all_products_become_integers_and_answers_stay_close(write, tmp_path):
    path = write()
    observed = calibration.observe(path, NETWORK, ROWS, tmp_path)
    made = quantize_static(path, observed, Recipe(), tmp_path / "int8.onnx")
    assert made.products == 3
    count = operators(tmp_path / "int8.onnx")
    assert (count["QuantizeLinear"], count["DequantizeLinear"]) == (2, 2 + 3), "one range for both readers of a tensor"
    assert 0 < error(path, tmp_path / "int8.onnx") < 1e-3
    onnx.checker.check_model(onnx.load(tmp_path / "int8.onnx"), full_check=True)


def test_clipped_ranges_saturate_and_do_not_wrap_around(write, tmp_path):
    path = write()
    observed = calibration.observe(path, NETWORK, ROWS, tmp_path)
    narrow = {name: Observed(one.low / 2, one.high / 2, one.counts) for name, one in observed.items()}
    quantize_static(path, narrow, Recipe(), tmp_path / "int8.onnx")
    assert 1e-3 < error(path, tmp_path / "int8.onnx") < 0.5


def test_seven_bits_use_half_the_steps(write, tmp_path):
    path = write()
    observed = calibration.observe(path, NETWORK, ROWS, tmp_path)
    quantize_static(path, observed, Recipe(weight_bits=7), tmp_path / "int8.onnx")
    weights = [
        value.const_value.numpy()
        for name, value in ir.load(tmp_path / "int8.onnx").graph.initializers.items()
        if name.endswith("_int8") and "table" not in name
    ]
    assert len(weights) == 3
    assert max(np.abs(matrix).max() for matrix in weights) == 63
    assert error(path, tmp_path / "int8.onnx") < 3e-3


@pytest.mark.parametrize("kept", ["block.down", "block.{up,side}"])
def test_modules_that_are_kept_stay_as_they_are(write, tmp_path, kept):
    path = write()
    observed = calibration.observe(path, NETWORK, ROWS, tmp_path)
    made = quantize_static(path, observed, Recipe(kept=(kept,), embeddings=False), tmp_path / "int8.onnx")
    assert made.products == 3 - kept.count(",") - 1
    before, after = ({node.name: node for node in ir.load(file).graph} for file in (path, tmp_path / "int8.onnx"))
    for part in ("up", "down", "side"):
        same = [value.name for value in after[f"block.{part}/MatMul"].inputs] == [
            value.name for value in before[f"block.{part}/MatMul"].inputs
        ]
        assert same == (part in kept)


def test_word_vectors_become_bytes_and_only_the_rows_of_a_batch_are_restored(write, tmp_path):
    path = write()
    quantize_static(path, calibration.observe(path, NETWORK, ROWS, tmp_path), Recipe(), tmp_path / "int8.onnx")
    graph = ir.load(tmp_path / "int8.onnx").graph
    assert "table" not in graph.initializers
    whole = graph.initializers["table_int8"].const_value.numpy()
    scale = graph.initializers["table_scale"].const_value.numpy()
    assert whole.dtype == np.int8
    assert (np.abs(whole).max(axis=1) == 127).all(), "each row has its own scale"
    assert np.abs(whole * scale - WEIGHTS["table"]).max() <= scale.max() / 2 * 1.001
    assert {node.op_type for node, _ in graph.initializers["table_int8"].uses()} == {"Gather"}


@pytest.mark.parametrize("residual", [False, True])
def test_smoothing_tames_a_channel_that_is_much_larger(write, tmp_path, residual):
    gamma, up, side = WEIGHTS["gamma"].copy(), WEIGHTS["up"].copy(), WEIGHTS["side"].copy()
    gamma[3] *= 200
    up[3] /= 200
    side[3] /= 200
    path = write(residual=residual, gamma=gamma, up=up, side=side)
    observed = calibration.observe(path, NETWORK, ROWS, tmp_path)
    found = {}
    for smoothing in (0.0, 0.5):
        out = tmp_path / f"{smoothing}.onnx"
        quantize_static(path, observed, Recipe(smoothing=smoothing, embeddings=False), out)
        found[smoothing] = error(path, out)
    assert found[0.5] < found[0.0] / 20
    added = operators(tmp_path / "0.5.onnx")["Mul"] - operators(path)["Mul"]
    assert added == (2 if residual else 1), (
        "GELU cannot take a scale; LayerNormalization can where nobody else reads it"
    )


# Sums that do not fit into 16 bits


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from([40, 63, 90, 127]))
def test_saturation_is_found_as_by_trying_all_corners(seed, inputs, largest):
    random = np.random.default_rng(seed)
    weights = random.integers(-largest, largest + 1, (inputs, 3)).astype(np.int8)
    least = random.integers(0, 200, inputs).astype(np.float32)
    most = least + random.integers(0, 56, inputs).astype(np.float32)
    wanted = False
    for corner in itertools.product(*zip(least, most, strict=True)):
        terms = np.array(corner, dtype=np.int64)[:, None] * weights
        padded = np.vstack([terms, np.zeros((inputs % 2, 3), dtype=np.int64)])
        sums = padded[::2] + padded[1::2]
        wanted |= bool((sums > 32767).any() or (sums < -32768).any())
    assert can_saturate(weights, least, most) == wanted


def test_seven_bits_never_saturate():
    weights = np.full((2, 1), 63, dtype=np.int8)
    everything = np.zeros(2, dtype=np.float32), np.full(2, 255, dtype=np.float32)
    assert not can_saturate(weights, *everything)
    assert not can_saturate(-weights, *everything)
    assert can_saturate(weights + 2, *everything)


def test_a_graph_says_how_many_products_can_saturate(write, tmp_path):
    path = write()
    observed = calibration.observe(path, NETWORK, ROWS, tmp_path)
    eight = quantize_static(path, observed, Recipe(), tmp_path / "int8.onnx")
    seven = quantize_static(path, observed, Recipe(weight_bits=7), tmp_path / "int8.onnx")
    assert eight.saturating > seven.saturating == 0


# Memory

PEAK = """
import resource, sys
import test_quantize as here
from burnish_export import calibration
from pathlib import Path
rows = (here.ROWS * 200)[: int(sys.argv[2])]
calibration.observe(Path(sys.argv[1]), here.NETWORK, rows, Path(sys.argv[1]).parent)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_calibration_takes_the_memory_of_one_batch(write):
    path = write()
    peaks = []
    for rows in (100, 10_000):
        process = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), str(rows)],
            capture_output=True,
            encoding="utf-8",
            cwd=Path(__file__).parent,
            check=True,
        )
        peaks.append(int(process.stdout) / 1024)
    assert peaks[1] - peaks[0] < 100, "megabytes"
