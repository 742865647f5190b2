"""CUDA graphs: batches padded to few shapes, answers as without, and on only where ``burnish tune`` found them faster.

No GPU is needed: what is recorded and replayed there runs here through the same buffers on the CPU. That a graph is
recorded was seen on an H100 (bench/LOG.md).
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from burnish_bench import tune as module
from burnish_bench.config import TuneConfig
from burnish_bench.tune import render, tune
from burnish_serve import graphs, load, opening, tuning
from burnish_serve.graphs import LARGEST, Graphs, bucket
from burnish_serve.session import CUDA, create_session
from burnish_serve.tuning import Tuning

TEXTS = ["great film", "dull", "great " * 9, "a dull film of great length", "film " * 30, ""]


@pytest.fixture
def recording(tiny_bundle) -> Graphs:
    return Graphs(create_session(tiny_bundle / "onnx" / "model.onnx"), 512, device="cpu")


@pytest.mark.parametrize(
    ("shape", "padded"),
    [
        ((1, 1), (1, 16)),
        ((3, 17), (4, 32)),
        ((8, 64), (8, 64)),
        ((5, 300), (8, 512)),
        ((1, 600), (1, 600)),
        ((9, 300), None),
        ((256, 16), (256, 16)),
        ((257, 16), None),
    ],
)
def test_few_shapes(shape, padded):
    assert bucket(shape, 512) == padded
    assert padded is None or padded[0] * padded[1] <= LARGEST


def test_all_shapes_of_a_model_are_few():
    assert len({bucket((rows, length), 512) for rows in range(1, 300) for length in range(1, 513)}) < 50


def test_the_answers_are_those_without(recording, tiny_bundle):
    plain = load(tiny_bundle, device="cpu", variant="fp32", threads=1)
    other = load(tiny_bundle, device="cpu", variant="fp32", threads=1)
    other.session, other.callers = recording, None
    for rows in (TEXTS, TEXTS[:1], TEXTS[:3], TEXTS):
        np.testing.assert_allclose(other.logits(rows), plain.logits(rows), rtol=1e-5, atol=1e-5)
    assert len(recording._recorded) > 1


def test_what_was_in_a_buffer_before_does_not_show(recording):
    def feed(rows: int, length: int) -> dict[str, np.ndarray]:
        ids = np.random.default_rng(rows * length).integers(5, 30, (rows, length))
        return {
            item.name: ids if item.name == "input_ids" else np.full_like(ids, item.name == "attention_mask")
            for item in recording.get_inputs()
        }

    first = recording.run(["logits"], feed(1, 5))[0]
    kept = first.copy()
    recording.run(["logits"], feed(1, 16))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(recording.run(["logits"], feed(1, 5))[0], kept)
    assert list(recording._recorded) == [(1, 16)]
    assert recording.run(None, feed(3, 5))[0].shape == (3, kept.shape[1])


def test_a_large_batch_runs_without(recording):
    ids = np.ones((LARGEST // 16 + 1, 16), dtype=np.int64)
    found = recording.run(["logits"], {item.name: ids for item in recording.get_inputs()})
    assert len(found[0]) == len(ids)
    assert not recording._recorded


def test_outputs_of_tokens_lose_their_padding(tmp_path):
    from onnx import TensorProto, helper, save

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", 1])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["logits"]),
    ]
    last = helper.make_tensor("last", TensorProto.INT64, [1], [2])
    graph = helper.make_graph(nodes, "tokens", [ids], [out], [last])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "tokens.onnx")
    rows = np.arange(15).reshape(3, 5)
    session = Graphs(create_session(tmp_path / "tokens.onnx"), 512, device="cpu")
    np.testing.assert_array_equal(session.run(["logits"], {"input_ids": rows})[0], rows[..., None].astype(np.float32))


def test_threads_take_turns(recording, tiny_bundle):
    model = load(tiny_bundle, device="cpu", variant="fp32", threads=1)
    model.session, model.callers = recording, None
    own = [[text] for text in ("great film", "dull", "a film", "of great length")]
    right = [model(rows) for rows in own]
    wrong: list[object] = []

    def ask(number: int) -> None:
        wrong.extend(found for _ in range(300) if (found := model(own[number])) != right[number])

    threads = [threading.Thread(target=ask, args=[number]) for number in range(len(own))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def cuda(monkeypatch, tmp_path):
    """Make the CPU look like CUDA to whoever opens a bundle; return what sessions were asked for."""
    asked: list[dict] = []

    def create(path, *, provider, threads=None, graphs=False, **_):
        asked.append({"provider": provider, "graphs": graphs})
        return create_session(path, threads=threads)

    def tried(path, feed, *, provider, threads=None):
        session = create(path, provider=provider, threads=threads)
        feed(session)
        return session, {provider: 1}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "provider_for", lambda *_: CUDA)
    monkeypatch.setattr(opening, "tried_session", tried)
    monkeypatch.setattr(opening, "create_session", create)
    monkeypatch.setattr(opening, "Graphs", lambda session, longest: Graphs(session, longest, device="cpu"))
    return asked


def kept(asked) -> Tuning | None:
    (path,) = Path(tuning.machine.cache_folder() or ".").rglob("*.json")
    return tuning.read(path)


@pytest.mark.parametrize("faster", [True, False])
def test_they_are_on_where_tuning_found_them_faster(cuda, tiny_bundle, monkeypatch, faster):
    def interleave(calls, *, rounds, **_):
        return {each: np.full((rounds, 1), 0.5 if each.cuda_graphs is faster else 1.0) for each in calls}

    monkeypatch.setattr(module, "interleave", interleave)
    data = tune(tiny_bundle, TuneConfig(rounds=6))
    assert [one["cuda_graphs"] for one in data["single_rows"]] == [False, True]
    assert kept(cuda) == Tuning(cuda_graphs=faster)
    assert ("CUDA graphs" in render(data).splitlines()[-2]) is faster
    cuda.clear()
    model = load(tiny_bundle)
    assert isinstance(model.session, Graphs) is faster
    assert [one["graphs"] for one in cuda] == [False, True][: 1 + faster]
    assert model(TEXTS) == load(tiny_bundle)(TEXTS)


@pytest.mark.parametrize("fault", ["raises", "answers otherwise"])
def test_they_are_no_candidate_where_they_do_not_work(cuda, tiny_bundle, monkeypatch, fault):
    def run(self, names, feed):
        if fault == "raises":
            raise RuntimeError("cannot record")
        return [-values for values in self.session.run(names, feed)]

    monkeypatch.setattr(graphs.Graphs, "run", run)
    data = tune(tiny_bundle, TuneConfig(rounds=6, seconds=0))
    assert [one["cuda_graphs"] for one in data["single_rows"]] == [False]


def test_tensorrt_keeps_what_it_compiled(monkeypatch, tmp_path):
    from burnish_serve import providers, session
    from burnish_serve.session import TENSORRT

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (_, options), *rest = providers.with_successors(TENSORRT, 1, graphs=False)
    assert rest == [CUDA, session.CPU]
    assert Path(options["trt_engine_cache_path"]).is_dir()
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert providers.with_successors(TENSORRT, 1, graphs=False)[0] == (TENSORRT, {})
    assert providers.with_successors(CUDA, 1, graphs=True)[0] == (CUDA, {"enable_cuda_graph": "1"})
