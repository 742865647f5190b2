"""Quantization-aware training against the int8 that export makes, and what it is for: answers that int8 keeps."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from burnish_export import calibration, graph
from burnish_export.quantize import Recipe, quantize_static
from burnish_export.source import read_source
from burnish_serve import batching
from burnish_serve.errors import InputError
from burnish_serve.session import create_session
from burnish_serve.text import Encoded
from burnish_train import checkpoint, train
from burnish_train.methods.quantized import FILE, PACE, QuantizeAware, by_rows, in_bytes, reach_of
from burnish_train.trainer import TaskTrainer
from tiny_model import LABELS, labelled_rows
from training import furthest_apart, record_of, weights

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = labelled_rows(180)[120:]


class Exported:
    """A checkpoint as export sees it: encoded rows, the float32 graph, and its static int8 by least and greatest.

    Args:
        folder: the checkpoint.
        scratch: where graphs go.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.network = read_source(str(folder), None, None).network
        runner = checkpoint.load(folder, device="cpu")
        asked = runner.examine([row["text"] for row in ROWS])
        self.rows = [window for row in asked for window in row.windows]
        self.fp32, self.int8 = scratch / "fp32.onnx", scratch / "int8.onnx"
        graph.to_onnx(self.network, self.fp32)
        observed = calibration.observe(self.fp32, self.network, self.rows, scratch)
        self.products = quantize_static(self.fp32, observed, Recipe(), self.int8).products

    def logits(self, path: Path) -> np.ndarray:
        return create_session(path).run(None, self.network.feed(self.rows))[0]

    def accuracy(self, path: Path) -> float:
        wanted = [LABELS.index(row["label"]) for row in ROWS]
        return float((self.logits(path).argmax(1) == wanted).mean())

    def batches(self, tokens: int) -> Iterable[dict[str, torch.Tensor]]:
        for some in batching.plan([len(row.ids) for row in self.rows], tokens):
            yield self.batch([self.rows[i] for i in some])

    def batch(self, rows: list[Encoded]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.network.feed(rows).items()}


def look(quantize: QuantizeAware, model, batches: Iterable[dict[str, torch.Tensor]]) -> None:
    """Let the ranges follow some batches, in one step that no dropout disturbs."""
    model.eval()
    for batch in batches:
        with quantize.learning(batch["attention_mask"]), torch.no_grad():
            model(**batch)
    quantize.on_step_end(None, None, None)


def test_it_answers_as_the_exported_int8(mean_checkpoint, tmp_path):
    exported = Exported(mean_checkpoint, tmp_path)
    model = checkpoint.load_model(mean_checkpoint)
    quantize = QuantizeAware(model, 1.0)
    look(quantize, model, exported.batches(128))
    with quantize.answering(), torch.no_grad():
        ours = model(**exported.batch(exported.rows)).logits.numpy()
    int8, fp32 = exported.logits(exported.int8), exported.logits(exported.fp32)
    assert exported.products == len(quantize.weights) - 1, "all but the pooler, which a pooled head does not read"
    assert np.abs(int8 - fp32).max() > 0.01
    assert np.abs(ours - int8).mean() < np.abs(int8 - fp32).mean() / 10


def test_a_step_that_overflows_moves_no_range(tiny_encoder):
    model = transformers.AutoModel.from_pretrained(tiny_encoder)
    quantize = QuantizeAware(model, 1.0)
    quantize.ranges[:] = 1.0
    for value in (float("inf"), float("nan")):
        quantize.seen[:] = 2.0
        quantize.seen[3, 1] = value
        quantize.on_step_end(None, None, None)
    assert quantize.ranges.isfinite().all()
    assert quantize.ranges[3].tolist() == [1.0, 1.0]
    assert (quantize.ranges[4] > 1).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_layer_is_the_product_of_bytes(tiny_encoder, kind):
    model = transformers.AutoModel.from_pretrained(tiny_encoder)
    quantize = QuantizeAware(model, 1.0)
    layer = model.encoder.layer[1].intermediate.dense
    place = next(i for i, weight in enumerate(quantize.weights) if weight is layer.weight)
    values = (torch.randn(5, 9, 32, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(kind)
    quantize.ranges[place] = torch.tensor([2.0, 7.0])
    with quantize.answering(), torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        ours = layer(values).detach().float().numpy()
    given, weight = values.float().numpy(), layer.weight.detach().numpy()
    step, steps = np.float32(9 / 255), np.abs(weight).max(axis=1) / 127
    whole = np.clip(np.rint(given / step) + 57, 0, 255).astype(np.int32) - 57
    wanted = whole @ np.rint(weight / steps[:, None]).astype(np.int32).T * step * steps + layer.bias.detach().numpy()
    exact = given @ weight.T + layer.bias.detach().numpy()
    assert np.abs(wanted - exact).max() > 0.1, "what lies beyond the ends is cut"
    np.testing.assert_allclose(ours, wanted, atol=1e-5 if kind == torch.float32 else 0.02)


def test_word_vectors_are_rounded_by_rows_and_other_vectors_are_not(tiny_encoder):
    model = transformers.AutoModel.from_pretrained(tiny_encoder)
    quantize = QuantizeAware(model, 1.0)
    ids = torch.tensor([[7, 8, 7]])
    with quantize.answering():
        words = model.embeddings.word_embeddings(ids)[0].detach()
        places = model.embeddings.position_embeddings(ids)
    table = model.embeddings.word_embeddings.weight.detach()
    steps = table.abs().amax(1, keepdim=True) / 127
    assert torch.allclose(words, ((table / steps).round() * steps)[ids[0]], atol=1e-7)
    assert not torch.equal(words, table[ids[0]])
    assert torch.equal(places, model.embeddings.position_embeddings(ids))


def test_gradients_pass_within_the_range_and_end_beyond_it():
    values = torch.tensor([-3.0, -1.9, -0.4, 0.0, 0.013, 3.9, 4.1, 80.0], requires_grad=True)
    rounded = in_bytes(values, torch.tensor([2.0, 4.0]))
    rounded.backward(torch.arange(1.0, 9.0))
    assert values.grad.tolist() == [0, 2, 3, 4, 5, 6, 0, 0]
    assert rounded.detach().tolist() == pytest.approx([-2, -1.9, -0.4, 0, 0.013, 3.9, 4, 4], abs=6 / 255 / 2 + 1e-6)
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    by_rows(matrix).sum().backward()
    assert torch.equal(matrix.grad, torch.ones(4, 6)), "the scales reach to the largest weight, so none lies beyond"


def test_nothing_at_all_stays_nothing():
    assert torch.equal(in_bytes(torch.zeros(3), torch.zeros(2)), torch.zeros(3))
    assert torch.equal(by_rows(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_padding_counts_for_no_range():
    values = torch.tensor([[[1.0, -2.0], [3.0, 0.5]], [[-1.0, 0.0], [90.0, -90.0]]])
    assert reach_of(values, torch.tensor([[True, True], [True, False]])).tolist() == [2.0, 3.0]
    assert reach_of(values[:, 1], torch.ones(2, 2, dtype=torch.bool)).tolist() == [90.0, 90.0]
    assert reach_of(values[:1, :1].abs(), torch.ones(1, 1, dtype=torch.bool)).tolist() == [0.0, 2.0]


def test_ranges_begin_with_the_first_step_and_move_slowly_then(model):
    quantize = QuantizeAware(model, 1.0)
    ids = torch.arange(5, 41).view(4, 9)
    first, second = ({"input_ids": some, "attention_mask": torch.ones_like(some)} for some in (ids, ids.flip(0) + 20))
    apart = []
    for batch in (first, second):
        alone = QuantizeAware(model, 1.0)
        look(alone, model, [batch])
        apart.append(alone.ranges)
    together = QuantizeAware(model, 1.0)
    look(together, model, [first, second])
    assert torch.equal(together.ranges, torch.maximum(*apart)), "one step of two batches"
    look(quantize, model, [first])
    assert torch.equal(quantize.ranges, apart[0])
    look(quantize, model, [second])
    assert torch.allclose(quantize.ranges, apart[0] * (1 - PACE) + apart[1] * PACE)
    before = quantize.ranges.clone()
    with quantize.answering(), torch.no_grad():
        model(**first)
    quantize.on_step_end(None, None, None)
    assert torch.equal(quantize.ranges, before), "answering moves nothing"


def test_ranges_are_those_of_all_processes(model, monkeypatch):
    quantize = QuantizeAware(model, 1.0)
    others = torch.rand(len(quantize.weights), 2, generator=torch.Generator().manual_seed(0)) * 4

    def all_reduce(tensor, how):
        assert how == torch.distributed.ReduceOp.MAX
        tensor.copy_(torch.maximum(tensor, others))

    monkeypatch.setattr("burnish_train.processes.count", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    ids = torch.arange(5, 41).view(4, 9)
    alone = QuantizeAware(model, 1.0)
    with alone.learning(torch.ones_like(ids)), torch.no_grad():
        model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    look(quantize, model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    assert torch.equal(quantize.ranges, torch.maximum(alone.seen, others))


def test_only_the_last_epochs_are_rounded(model):
    quantize = QuantizeAware(model, 1.0)
    ids = torch.arange(5, 41).view(4, 9)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    look(quantize, model, [batch])
    plain = model(**batch).logits
    found = {}
    for epoch in (None, 0.0, 1.9, 2.0, 2.5):
        quantize.on_step_begin(SimpleNamespace(num_train_epochs=3.0), SimpleNamespace(epoch=epoch), None)
        with quantize.learning(batch["attention_mask"]):
            found[epoch] = torch.equal(model(**batch).logits, plain)
    assert found == {None: True, 0.0: True, 1.9: True, 2.0: False, 2.5: False}
    with quantize.answering():
        assert not torch.equal(model(**batch).logits, plain), "dev rows are answered so from the first epoch on"
    assert torch.equal(model(**batch).logits, plain), "nothing stays in the model"


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_checkpoint_is_as_any_other(make_checkpoint, tiny_checkpoint, mean_checkpoint, pooling):
    folder = make_checkpoint(pooling=pooling, quantize_aware=6.0)
    plain = {"first": tiny_checkpoint, "mean": mean_checkpoint}[pooling]
    ours, theirs = weights(folder), weights(plain)
    assert {name: array.dtype for name, array in ours.items()} == {name: array.dtype for name, array in theirs.items()}
    assert {path.name for path in folder.iterdir()} == {path.name for path in plain.iterdir()}
    assert furthest_apart(folder, plain) > 0
    assert record_of(folder)["metrics"]["test"]["accuracy"] > 0.9
    assert len(np.unique(next(array for name, array in ours.items() if "query.weight" in name))) > 256


def test_it_goes_together_with_all_that_reads_a_batch_otherwise(train_config, mean_checkpoint):
    config = train_config(
        quantize_aware=1.0,
        pooling="mean",
        num_train_epochs=2.0,
        precision="bf16",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        rdrop_alpha=0.5,
        adversarial_epsilon=0.1,
        ema_decay=0.9,
        teacher=(str(mean_checkpoint),),
        distill_hidden=0.5,
    )
    assert train(config)["metrics"]["test"]["accuracy"] > 0.5


def test_a_run_gets_to_its_last_epochs(train_config):
    settings = {"learning_rate": 0.0, "early_stopping_patience": 1, "num_train_epochs": 4.0}
    assert train(train_config(**settings, quantize_aware=1.0))["steps"] == 4 * 14


def test_each_of_trainers_folders_has_the_ranges(train_config, monkeypatch):
    kept = {}
    load = TaskTrainer._load_best_model

    def looked_at(self):
        kept.update({path.parent.name: load_file(path)["ranges"] for path in Path(self.args.output_dir).rglob(FILE)})
        load(self)

    monkeypatch.setattr(TaskTrainer, "_load_best_model", looked_at)
    train(train_config(quantize_aware=1.0, num_train_epochs=2.0))
    assert sorted(kept) == ["checkpoint-14", "checkpoint-28"]
    assert all(bool((ranges.amax(1) > 0).all()) for ranges in kept.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [("lora_rank", 4), ("gradient_checkpointing", True), ("torch_compile", True), ("max_minutes", 1.0)],
)
def test_what_does_not_go_together_is_said(train_config, name, value):
    with pytest.raises(InputError, match=rf"^quantize_aware .*; leave out {name}$"):
        train_config(**{"quantize_aware": 1.0, name: value})


OUTLIER = 500.0


@pytest.fixture(scope="module")
def planted(tmp_path_factory, mean_checkpoint) -> Path:
    """Return a trained checkpoint whose last vectors have one large number, always the same, which tells nothing."""
    folder = Path(shutil.copytree(mean_checkpoint, tmp_path_factory.mktemp("planted") / "outlier"))
    model = checkpoint.load_model(folder)
    with torch.no_grad():
        last = model.encoder.encoder.layer[-1].output.LayerNorm
        last.weight[0], last.bias[0] = 0.0, OUTLIER
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("aware", [False, True])
def test_int8_keeps_what_was_learned_through_it(train_config, planted, tmp_path, aware):
    settings = {"model": str(planted), "pooling": "mean", "num_train_epochs": 8.0}
    record = train(train_config(**settings, quantize_aware=8.0 * aware))
    exported = Exported(train_config().out, tmp_path)
    assert record["metrics"]["test"]["accuracy"] > 0.9, "float32 learns either way"
    if aware:
        assert exported.accuracy(exported.int8) > 0.9
    else:
        assert exported.accuracy(exported.int8) < 0.8
