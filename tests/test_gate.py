"""``burnish bench --gate``: a slower bundle raises the alarm, noise does not, and different runs are not compared."""

from __future__ import annotations

import base64
import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from burnish_bench.cli import bench as command
from burnish_bench.gate import gate, read_saved
from burnish_bench.reference import PRODUCT, reference
from burnish_serve import timing
from burnish_serve.errors import InputError
from burnish_serve.runner import Runner
from burnish_serve.session import CPU
from burnish_serve.timing import speedup


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def figures(**per_reference):
    """Return what a run saves, as far as the gate reads it: medians with intervals by variant."""
    estimates = {
        name: {"per_reference": dict(zip(("median", "low", "high"), found, strict=True))}
        for name, found in per_reference.items()
    }
    rows = {"texts": 256, "mean_tokens": 5.0, "max_length": 16}
    return {
        "rounds": 10,
        "machine": {"cpu": "a processor"},
        "provider": CPU,
        "threads": 2,
        "rows": rows,
        "variants": estimates,
    }


def test_the_reference_is_one_product_of_any_size():
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("x", "w")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "reference", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert base64.b64encode(made.SerializeToString()) == base64.b64encode(PRODUCT)
    first, *others = reference(CPU, 1)()
    assert len(others) == 9
    random = np.random.default_rng(0)
    x, w = (random.standard_normal(shape, dtype=np.float32) for shape in ((512, 384), (384, 1536)))
    np.testing.assert_allclose(first[0], x @ w, atol=1e-3)


@pytest.mark.parametrize(
    ("now", "slower"),
    [
        ((2.0, 1.95, 2.05), False),
        ((1.7, 1.65, 1.75), True),
        ((1.7, 1.4, 2.1), False),  # so noisy that it may be the same
        ((1.95, 1.89, 1.91), False),  # slower for certain, by less than the tolerance
        ((1.8, 1.78, 1.899), True),
        ((1.85, 1.8, 1.97), True),  # slower for certain, and by more than the tolerance as far as can be told
        ((3.0, 2.9, 3.1), False),
    ],
)
def test_an_alarm_needs_a_median_under_the_tolerance_and_an_interval_under_the_old_one(now, slower):
    found = gate(figures(int8=(2.0, 1.9, 2.1)), figures(int8=now), drop=0.05)
    assert found["passed"] is not slower
    assert found["variants"]["int8"]["slower"] is slower
    assert found["variants"]["int8"]["ratio"] == pytest.approx(now[0] / 2)


def test_an_old_run_that_is_as_noisy_raises_no_alarm():
    new = figures(int8=(1.85, 1.8, 1.97))
    assert gate(figures(int8=(2.0, 1.9, 2.1)), new, drop=0.05)["passed"] is False
    assert gate(figures(int8=(2.0, 1.8, 2.2)), new, drop=0.05)["passed"] is True


def simulated(random, cost):
    """Return the figures of thirty rounds on a machine that wanders by a fifth, with 5 % of noise in each turn."""
    wander = np.exp(np.cumsum(random.normal(0, 0.1, (30, 1)), axis=0)) * random.uniform(0.8, 1.25)
    whole, fixed = (wander * some * np.exp(random.normal(0, 0.05, (30, 1))) for some in (cost, 0.05))
    estimate = speedup(whole, fixed)
    return figures(int8=(estimate.median, estimate.low, estimate.high))


def test_a_seventh_more_time_is_seen_and_a_machine_that_wanders_is_not():
    random = np.random.default_rng(0)
    alarms = {
        cost: sum(not gate(simulated(random, 1.0), simulated(random, cost), drop=0.05)["passed"] for _ in range(200))
        for cost in (1.0, 1 / 0.85)
    }
    assert alarms[1.0] <= 2
    assert alarms[1 / 0.85] >= 190


def test_only_what_can_be_compared_is_compared():
    saved = figures(int8=(2.0, 1.9, 2.1))
    for path, value, message in (
        (("machine", "cpu"), "another", "processor was a processor and is another"),
        (("provider",), "CUDAExecutionProvider", "provider was CPUExecutionProvider and is CUDA"),
        (("threads",), 1, "threads was 2 and is 1"),
        (("rows", "texts"), 9, r"rows \(texts\) was 256 and is 9"),
        (("rounds",), 5, "a gate needs 6 rounds"),
    ):
        data = copy.deepcopy(saved)
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(InputError, match=message):
            gate(saved, data, drop=0.05)
    with pytest.raises(InputError, match="no variant in common; saved are: int8"):
        gate(saved, figures(fp32=(1, 1, 1)), drop=0.05)


def test_a_planted_slowdown_ends_with_status_7(tiny_bundle, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, of_a_call=1.0)
    call = Runner.__call__

    def answered(self, *rows, **options):
        clock.now += clock.of_a_call
        return call(self, *rows, **options)

    def seconds(timed):  # by a clock that only answers move: a busy machine is no slowdown, and hides none
        before = clock.now
        timed()
        return clock.now - before or 1.0  # the reference

    monkeypatch.setattr(Runner, "__call__", answered)
    monkeypatch.setattr(timing, "_seconds", seconds)
    saved = tmp_path / "speed.json"
    quick = ("--variant", "fp32", "--no-sweep", "--rounds", 6, "--seconds", 0.1, "--threads", 1)
    assert run(tiny_bundle, *quick, "--out", saved).exit_code == 0
    clock.of_a_call = 1.04
    result = run(tiny_bundle, *quick, "--gate", saved)
    assert result.exit_code == 0, result.output
    assert "fp32" in result.stdout.partition("speed against the saved run")[2]
    clock.of_a_call = 1 / 0.85
    result = run(tiny_bundle, *quick, "--gate", saved, "--json")
    assert result.exit_code == 7
    verdict = json.loads(result.stdout)["gate"]
    assert verdict["passed"] is False
    assert verdict["variants"]["fp32"]["ratio"] == pytest.approx(0.85)


def test_what_is_no_saved_run_is_said_before_anything_is_measured(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("burnish_bench.report.measure_variants", None)
    for name, text, message in (
        ("none.json", None, f"no such file: {tmp_path}/none.json; burnish bench --out"),
        ("list.json", "[]", "is not what burnish bench --out writes"),
        ("text.json", "speed", "is not what burnish bench --out writes"),
        ("old.json", '{"variants": {"int8": {}}}', "has no reference to compare by"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
        result = run(tiny_bundle, "--gate", tmp_path / name)
        assert result.exit_code == 1
        assert message in result.stderr
    good = tmp_path / "good.json"
    good.write_text(json.dumps(figures(fp32=(1, 1, 1))), encoding="utf-8")
    assert read_saved(good)["rounds"] == 10
    result = run(tiny_bundle, "--gate", good, "--rounds", 5)
    assert result.stderr == "burnish: a gate needs 6 rounds or more: set --rounds\n"
