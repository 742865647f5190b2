"""Training: what comes out is a checkpoint that anyone can load, and that says how it came to be."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from sklearn.metrics import classification_report
from transformers.trainer_pt_utils import LabelSmoother

from burnish_export.network import positions
from burnish_serve import machine
from burnish_serve.config import to_dict
from burnish_serve.errors import DeviceError
from burnish_train import TrainConfig, checkpoint, fit, train
from burnish_train.arguments import arguments_for
from burnish_train.data import read_splits
from burnish_train.device import check_precision, precision_of, use_cuda
from burnish_train.losses import cross_entropy
from burnish_train.progress import StepBar
from tiny_model import LABELS, labelled_rows, write_rows
from training import furthest_apart, record_of, rows_of, weights

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [row["text"] for row in labelled_rows(180)[120:]]
STEPS_OF_AN_EPOCH, STEPS = 14, 84  # 108 of 120 rows are left to train on, eight a step, six times


# The checkpoint


def test_transformers_loads_a_checkpoint_and_answers_as_we_do(tiny_checkpoint):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_checkpoint)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        theirs = model(**batch).logits.numpy()
    ours = checkpoint.load(tiny_checkpoint, device="cpu")
    np.testing.assert_allclose(ours.logits(TEXTS), theirs, atol=1e-5)
    assert [model.config.id2label[i] for i in range(3)] == list(LABELS) == list(ours.labels)
    assert model.config.label2id == {label: number for number, label in enumerate(LABELS)}
    assert model.config.problem_type == "single_label_classification"
    assert not list(tiny_checkpoint.glob("*.bin")), "safetensors only"


def test_a_pooled_checkpoint_is_an_encoder_for_transformers_with_the_head_beside_it(mean_checkpoint):
    encoder = transformers.AutoModel.from_pretrained(mean_checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(mean_checkpoint)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        hidden = encoder(**batch).last_hidden_state.numpy()
    mask = batch["attention_mask"].numpy()[:, :, None]
    head = load_file(mean_checkpoint / "head.safetensors")
    by_hand = (hidden * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]
    ours = checkpoint.load(mean_checkpoint, device="cpu")
    np.testing.assert_allclose(ours.logits(TEXTS), by_hand, atol=1e-5)
    assert record_of(mean_checkpoint)["pooling"] == "mean"
    assert encoder.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_scores_of_a_checkpoint_are_those_of_its_weights(pooling, make_checkpoint, tiny_rows):
    folder = make_checkpoint(pooling=pooling, num_train_epochs=2.0)  # too little to be right everywhere
    record, model = record_of(folder), checkpoint.load(folder, device="cpu")
    for split, path in (("dev", folder / "dev.jsonl"), ("test", tiny_rows / "test.jsonl")):
        rows = rows_of(path)
        predicted = [answer["label"] for answer in model([row["text"] for row in rows])]
        right = [row["label"] for row in rows]
        report = classification_report(right, predicted, output_dict=True, zero_division=0)
        metrics = record["metrics"][split]
        assert metrics["accuracy"] == pytest.approx(report["accuracy"])
        assert metrics["f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])
        assert metrics["precision_macro"] == pytest.approx(report["macro avg"]["precision"])
        assert metrics["recall_macro"] == pytest.approx(report["macro avg"]["recall"])
        assert set(metrics["per_class"]) == {*right, *predicted}
        for label, scores in metrics["per_class"].items():
            wanted = {"precision": "precision", "recall": "recall", "f1": "f1-score", "rows": "support"}
            assert scores == pytest.approx({ours: report[label][theirs] for ours, theirs in wanted.items()})
    assert pooling == "mean" or record["metrics"]["test"]["accuracy"] < 1, "metrics that are all 1 show little"


def test_it_learns(tiny_checkpoint, mean_checkpoint):
    for folder in (tiny_checkpoint, mean_checkpoint):
        scores = record_of(folder)["metrics"]
        assert scores["dev"]["accuracy"] >= 0.9
        assert scores["test"]["accuracy"] >= 0.9


def test_the_record_says_how_the_checkpoint_came_to_be(tiny_checkpoint, tiny_settings):
    record = record_of(tiny_checkpoint)
    train_config = TrainConfig(**{**tiny_settings, "out": tiny_checkpoint})
    splits = read_splits(train_config)
    assert record["format"] == 1
    assert record["task"] == "text-classification"
    assert record["labels"] == list(LABELS)
    assert (record["max_length"], record["pooling"], record["precision"]) == (16, "first", "fp32")
    assert record["base_model"] == tiny_settings["model"]
    assert record["settings"] == to_dict(train_config)
    assert record["data"] == splits.sources
    assert set(record["data"]) == {"train", "dev", "test"}
    assert (record["seed"], record["steps"]) == (42, STEPS)
    assert record["warnings"] == []
    for name in ("torch", "transformers", "accelerate", "burnish"):
        assert record["versions"][name] == machine.version(name)
    assert record["machine"]["cpu"] == machine.cpu_name()


def test_the_curve_has_losses_and_a_dev_score_for_each_epoch(tiny_checkpoint):
    record = record_of(tiny_checkpoint)
    losses = [point for point in record["curve"] if "loss" in point]
    scores = {point["step"]: point["eval_accuracy"] for point in record["curve"] if "eval_accuracy" in point}
    assert len(losses) > 20
    assert losses[-1]["loss"] < 0.7 * losses[0]["loss"]
    assert list(scores) == list(range(STEPS_OF_AN_EPOCH, STEPS + 1, STEPS_OF_AN_EPOCH))
    assert record["best_step"] == max(scores, key=scores.__getitem__)
    assert max(scores.values()) == pytest.approx(record["metrics"]["dev"]["accuracy"])
    assert (tiny_checkpoint / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_dev_and_calibration_rows_lie_beside_the_weights(tiny_checkpoint, tiny_settings):
    splits = read_splits(TrainConfig(**{**tiny_settings, "out": tiny_checkpoint}))
    dev, calibration = rows_of(tiny_checkpoint / "dev.jsonl"), rows_of(tiny_checkpoint / "calibration.jsonl")
    assert dev == [{"text": row.texts[0], "label": row.label} for row in splits.dev]
    assert calibration == [{"text": row.texts[0], "label": row.label} for row in splits.train]
    assert len(dev) == 12


def test_calibration_is_a_sample_of_train_alone(train_config, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "CALIBRATION_ROWS", 20)
    rows = [{"sentence": row["text"], "kind": row["label"]} for row in labelled_rows(60)]
    settings = {"train": str(write_rows(tmp_path / "a.jsonl", rows)), "test": None, "num_train_epochs": 1.0}
    train(train_config(**settings, text_column="sentence", label_column="kind"))
    out = tmp_path / "run"
    calibration = {row["text"] for row in rows_of(out / "calibration.jsonl")}
    assert len(calibration) == 20
    assert not calibration & {row["text"] for row in rows_of(out / "dev.jsonl")}
    assert calibration < {row["sentence"] for row in rows}
    assert set(record_of(out)["metrics"]) == {"dev"}


def test_a_text_is_read_as_far_as_the_model_can_and_no_less(train_config, tmp_path):
    train(train_config(max_length=512, num_train_epochs=0.1, test=None))
    assert record_of(tmp_path / "run")["max_length"] == 32, "the encoder has 32 positions"
    (encoded,) = checkpoint.load(tmp_path / "run", device="cpu").encode(["now " * 20 + "wake"])
    assert encoded.tokens == 23, "tokenizer.json cuts at 8, which is not its to decide"
    assert not encoded.truncated


@pytest.mark.parametrize("model_type", ["bert", "camembert", "mpnet", "roberta", "xlm-roberta"])
def test_a_model_reads_as_many_tokens_as_is_said_and_not_one_more(model_type):
    train_config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=20,
    )
    model = transformers.AutoModel.from_config(train_config).eval()
    length = checkpoint.max_positions(train_config, SimpleNamespace(model_max_length=512))
    assert length == positions(train_config), "what is trained is exported with as many"
    with torch.inference_mode():
        model(torch.full((1, length), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, length + 1), 5))


def test_a_checkpoint_for_everyone_may_be_read_by_everyone(tiny_checkpoint):
    mask = os.umask(0)
    os.umask(mask)
    for path in tiny_checkpoint.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path.name


# How it learns


def test_the_loss_is_that_of_torch_and_of_transformers():
    logits, labels = torch.randn(7, 5), torch.randint(5, (7,))
    for share in (0.0, 0.1, 0.5):
        ours = cross_entropy(logits, labels, share)
        assert ours == pytest.approx(torch.nn.CrossEntropyLoss(label_smoothing=share)(logits, labels).item(), abs=1e-6)
        theirs = LabelSmoother(epsilon=share)({"logits": logits}, labels)
        assert ours == pytest.approx(theirs.item(), abs=1e-6)
    half = cross_entropy(logits.bfloat16(), labels, 0.1)
    assert half.dtype == torch.float32


def test_label_smoothing_reaches_the_training(train_config, tmp_path):
    short = {"num_train_epochs": 0.1, "test": None}
    runs = (train_config(out=tmp_path / f"{share}", label_smoothing_factor=share, **short) for share in (0.0, 0.5))
    first = [train(run)["curve"][0]["loss"] for run in runs]
    assert first[0] != first[1]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 3), (0, 5)])
def test_early_stopping_stops_when_dev_gets_no_better(train_config, tmp_path, patience, epochs):
    record = train(train_config(learning_rate=0.0, early_stopping_patience=patience, num_train_epochs=5.0, test=None))
    assert record["steps"] == epochs * STEPS_OF_AN_EPOCH
    assert record["best_step"] == STEPS_OF_AN_EPOCH


def test_the_best_epoch_is_kept_and_not_the_last(train_config, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.7, 0.6, 0.9])  # the last is of the weights that were kept
    task = fit.task_named("text-classification")
    scored = type(task)(**{**vars(task), "score": lambda *_: {"accuracy": next(scores), "per_class": {}}})
    monkeypatch.setattr(fit, "task_named", lambda name: scored)
    seen = {}

    def on_evaluate(self, args, state, control, model=None, **_):
        seen[state.global_step] = model.classifier.bias.detach().clone().numpy()

    monkeypatch.setattr(StepBar, "on_evaluate", on_evaluate)
    record = train(train_config(num_train_epochs=4.0, test=None))
    assert record["best_step"] == 2 * STEPS_OF_AN_EPOCH
    np.testing.assert_array_equal(weights(tmp_path / "run")["classifier.bias"], seen[2 * STEPS_OF_AN_EPOCH])


def test_the_same_seed_gives_the_same_weights_and_another_others(train_config, tiny_checkpoint, tmp_path):
    train(train_config(out=tmp_path / "again"))
    train(train_config(out=tmp_path / "other", seed=1))
    assert furthest_apart(tmp_path / "again", tiny_checkpoint) == 0
    assert furthest_apart(tmp_path / "other", tiny_checkpoint) > 0.01
    assert (tmp_path / "other" / "dev.jsonl").read_bytes() != (tiny_checkpoint / "dev.jsonl").read_bytes()


def test_without_dev_rows_the_last_step_is_kept(train_config, tmp_path):
    record = train(train_config(dev_fraction=0.0, num_train_epochs=1.0))
    assert set(record["metrics"]) == {"test"}
    assert record["best_step"] == record["steps"] == 15
    assert (tmp_path / "run" / "dev.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("features", "times", "wanted"),
    [(("avx512_bf16",), 2.0, "bf16"), (("amx_bf16",), 8.0, "bf16"), (("avx512_bf16",), 0.5, "fp32")],
)
def test_bf16_is_taken_where_the_processor_is_faster_with_it(monkeypatch, tmp_path, features, times, wanted):
    monkeypatch.setattr("burnish_serve.machine.cpu_features", lambda: features)
    monkeypatch.setattr("burnish_train.device.peak", lambda device, kind: {"fp32": 1e9, "bf16": times * 1e9}[kind])
    assert precision_of("auto", tmp_path, cuda=False) == wanted
    monkeypatch.setattr("burnish_train.device.peak", lambda device, kind: {"fp32": times * 1e9, "bf16": 1e9}[kind])
    assert precision_of("auto", tmp_path, cuda=False) == wanted, "a run that is resumed goes on as it began"
    (tmp_path / "precision").write_text("")  # as a power cut leaves it
    assert precision_of("auto", tmp_path, cuda=False) == ("fp32" if times > 1 else "bf16")


def test_bf16_is_not_timed_where_the_processor_has_it_not(monkeypatch, tmp_path):
    monkeypatch.setattr("burnish_serve.machine.cpu_features", lambda: ("avx2",))
    monkeypatch.setattr("burnish_train.device.peak", None)
    assert precision_of("auto", tmp_path, cuda=False) == "fp32"


def test_what_was_chosen_is_chosen_anew_where_nothing_was_learned_with_it(train_config):
    config = train_config(precision="auto", num_train_epochs=0.2)
    work = config.out.with_name("run.partial")
    work.mkdir()
    (work / "precision").write_text("bf16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("burnish_train.device._bf16_is_faster", lambda *, cuda: False)
        assert train(config, resume=True)["precision"] == "fp32"


def test_a_gpu_without_bfloat16_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    (tmp_path / "precision").write_text("bf16")
    (tmp_path / "other").mkdir()
    for asked in ("bf16", "auto"):
        with pytest.raises(DeviceError, match="Tesla T4 has no bfloat16, which --precision asks for or the run was be"):
            precision_of(asked, tmp_path, cuda=True)
    assert precision_of("auto", tmp_path / "other", cuda=True) == "fp32"


def test_a_precision_that_was_asked_for_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    for asked in ("bf16", "fp32", "fp16"):
        assert precision_of(asked, tmp_path, cuda=True) == asked
        check_precision(asked, cuda=True)
    with pytest.raises(DeviceError, match="fp16 needs a GPU"):
        check_precision("fp16", cuda=False)


def test_bf16_trains_and_what_is_written_is_float32(train_config, tmp_path):
    record = train(train_config(precision="bf16", num_train_epochs=1.0))
    assert record["precision"] == "bf16"
    assert {array.dtype for array in weights(tmp_path / "run").values()} == {np.dtype(np.float32)}
    plain = train(train_config(out=tmp_path / "plain", num_train_epochs=1.0))
    assert plain["precision"] == "fp32"
    assert 0 < furthest_apart(tmp_path / "run", tmp_path / "plain") < 0.1


def test_a_process_learns_on_one_gpu_of_several(train_config, tmp_path):
    config = train_config(per_device_train_batch_size=16)
    arguments = arguments_for(config, tmp_path, None, cuda=False, precision="fp32")
    assert arguments.n_gpu == 0
    arguments._n_gpu = 8  # as transformers finds them
    assert transformers.TrainingArguments.n_gpu.fget(arguments) == 8
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda():
    with pytest.raises(DeviceError, match=r"PyTorch finds no CUDA device.*; use --device cpu") as caught:
        use_cuda("cuda")
    assert caught.value.exit_status == 6
    assert use_cuda("auto") is False
