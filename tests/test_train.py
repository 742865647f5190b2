"""Training: what comes out is a checkpoint that anyone can load, says how it came to be, and survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.numpy import load_file
from sklearn.metrics import classification_report
from transformers.trainer_pt_utils import LabelSmoother

from burnish_export.network import positions
from burnish_serve import machine
from burnish_serve.config import to_dict
from burnish_serve.errors import BurnishError, DeviceError, InputError
from burnish_train import TrainConfig, checkpoint, fit, train
from burnish_train.cli import train as command_train
from burnish_train.config import read_recipe
from burnish_train.data import read_splits
from burnish_train.device import use_bf16, use_cuda
from burnish_train.losses import cross_entropy
from burnish_train.progress import StepBar
from tiny_model import LABELS, labelled_rows, make_encoder, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPES = Path(__file__).parents[1] / "train" / "recipes"
TEXTS = [row["text"] for row in labelled_rows(180)[120:]]
STEPS_OF_AN_EPOCH, STEPS = 14, 84  # 108 of 120 rows are left to train on, eight a step, six times


@pytest.fixture
def config(tiny_settings, tmp_path):
    """Return a function that makes the tiny run's settings, with some changed."""
    return lambda **changes: TrainConfig(**{**tiny_settings, "out": tmp_path / "run", **changes})


def record_of(folder: Path) -> dict:
    return json.loads((folder / "burnish.json").read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for path in sorted(folder.glob("*.safetensors")) for name, array in load_file(path).items()}


def furthest_apart(first: Path, second: Path) -> float:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


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
    config = TrainConfig(**{**tiny_settings, "out": tiny_checkpoint})
    splits = read_splits(config)
    assert record["format"] == 1
    assert record["task"] == "text-classification"
    assert record["labels"] == list(LABELS)
    assert (record["max_length"], record["pooling"], record["precision"]) == (16, "first", "fp32")
    assert record["base_model"] == tiny_settings["model"]
    assert record["settings"] == to_dict(config)
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


def test_calibration_is_a_sample_of_train_alone(config, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "CALIBRATION_ROWS", 20)
    rows = [{"sentence": row["text"], "kind": row["label"]} for row in labelled_rows(60)]
    settings = {"train": str(write_rows(tmp_path / "a.jsonl", rows)), "test": None, "num_train_epochs": 1.0}
    train(config(**settings, text_column="sentence", label_column="kind"))
    out = tmp_path / "run"
    calibration = {row["text"] for row in rows_of(out / "calibration.jsonl")}
    assert len(calibration) == 20
    assert not calibration & {row["text"] for row in rows_of(out / "dev.jsonl")}
    assert calibration < {row["sentence"] for row in rows}
    assert set(record_of(out)["metrics"]) == {"dev"}


def test_a_text_is_read_as_far_as_the_model_can_and_no_less(config, tmp_path):
    train(config(max_length=512, num_train_epochs=0.1, test=None))
    assert record_of(tmp_path / "run")["max_length"] == 32, "the encoder has 32 positions"
    (encoded,) = checkpoint.load(tmp_path / "run", device="cpu").encode(["now " * 20 + "wake"])
    assert encoded.tokens == 23, "tokenizer.json cuts at 8, which is not its to decide"
    assert not encoded.truncated


@pytest.mark.parametrize("model_type", ["bert", "camembert", "mpnet", "roberta", "xlm-roberta"])
def test_a_model_reads_as_many_tokens_as_is_said_and_not_one_more(model_type):
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=20,
    )
    model = transformers.AutoModel.from_config(config).eval()
    length = checkpoint.max_positions(config, SimpleNamespace(model_max_length=512))
    assert length == positions(config), "what is trained is exported with as many"
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


def test_label_smoothing_reaches_the_training(config, tmp_path):
    first = [train(config(out=tmp_path / f"{share}", label_smoothing_factor=share, num_train_epochs=0.1, test=None))
             ["curve"][0]["loss"] for share in (0.0, 0.5)]  # fmt: skip
    assert first[0] != first[1]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 3), (0, 5)])
def test_early_stopping_stops_when_dev_gets_no_better(config, tmp_path, patience, epochs):
    record = train(config(learning_rate=0.0, early_stopping_patience=patience, num_train_epochs=5.0, test=None))
    assert record["steps"] == epochs * STEPS_OF_AN_EPOCH
    assert record["best_step"] == STEPS_OF_AN_EPOCH


def test_the_best_epoch_is_kept_and_not_the_last(config, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.7, 0.6, 0.9])  # the last is of the weights that were kept
    task = fit.task_named("text-classification")
    scored = type(task)(**{**vars(task), "score": lambda *_: {"accuracy": next(scores)}})
    monkeypatch.setattr(fit, "task_named", lambda name: scored)
    seen = {}

    def on_evaluate(self, args, state, control, model=None, **_):
        seen[state.global_step] = model.classifier.bias.detach().clone().numpy()

    monkeypatch.setattr(StepBar, "on_evaluate", on_evaluate)
    record = train(config(num_train_epochs=4.0, test=None))
    assert record["best_step"] == 2 * STEPS_OF_AN_EPOCH
    np.testing.assert_array_equal(weights(tmp_path / "run")["classifier.bias"], seen[2 * STEPS_OF_AN_EPOCH])


def test_the_same_seed_gives_the_same_weights_and_another_others(config, tiny_checkpoint, tmp_path):
    train(config(out=tmp_path / "again"))
    train(config(out=tmp_path / "other", seed=1))
    assert furthest_apart(tmp_path / "again", tiny_checkpoint) == 0
    assert furthest_apart(tmp_path / "other", tiny_checkpoint) > 0.01
    assert (tmp_path / "other" / "dev.jsonl").read_bytes() != (tiny_checkpoint / "dev.jsonl").read_bytes()


def test_without_dev_rows_the_last_step_is_kept(config, tmp_path):
    record = train(config(dev_fraction=0.0, num_train_epochs=1.0))
    assert set(record["metrics"]) == {"test"}
    assert record["best_step"] == record["steps"] == 15
    assert (tmp_path / "run" / "dev.jsonl").read_bytes() == b""


def test_bf16_is_taken_where_the_processor_has_it(monkeypatch):
    for features, wanted in ((("avx512_bf16",), True), (("amx_bf16",), True), (("avx2",), False)):
        monkeypatch.setattr(machine, "cpu_features", lambda features=features: features)
        assert use_bf16("auto", cuda=False) is wanted
    assert use_bf16("bf16", cuda=False)
    assert not use_bf16("fp32", cuda=False)


def test_bf16_trains_and_what_is_written_is_float32(config, tmp_path):
    record = train(config(precision="bf16", num_train_epochs=1.0))
    assert record["precision"] == "bf16"
    assert {array.dtype for array in weights(tmp_path / "run").values()} == {np.dtype(np.float32)}
    plain = train(config(out=tmp_path / "plain", num_train_epochs=1.0))
    assert plain["precision"] == "fp32"
    assert 0 < furthest_apart(tmp_path / "run", tmp_path / "plain") < 0.1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda():
    with pytest.raises(DeviceError, match=r"PyTorch finds no CUDA device.*; use --device cpu") as caught:
        use_cuda("cuda")
    assert caught.value.exit_status == 6
    assert use_cuda("auto") is False


# Recipes and flags


def test_every_recipe_loads():
    recipes = sorted(path for path in RECIPES.rglob("*.toml") if not path.name.startswith("pretrain"))  # another verb's
    assert {"intent.toml", "sentiment.toml"} <= {path.name for path in recipes}
    for path in recipes:
        config = read_recipe(path, model="encoder", train="train.jsonl", out="runs/a")
        assert config.out == Path("runs/a")
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(f"# burnish train {path.relative_to(RECIPES.parents[1]).as_posix()} "), path


def test_unknown_keys_of_a_recipe_are_all_said_at_once(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('epochs = 3\nlerning_rate = 1e-4\nnum_train_epochs = 0\npooling = "max"\n', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_recipe(path, model="m", train="t", out="o")
    said = str(caught.value)
    assert said.startswith(f"{path}: unknown keys 'epochs', 'lerning_rate' (known: ")
    for known in to_dict(TrainConfig(model="m", train="t", out=Path("o"))):
        assert known in said
    assert "num_train_epochs must be at least 0.001, not 0" in said
    assert "pooling must be one of first, mean, markers, markers-mean, not 'max'" in said


def test_the_command_prints_one_json_object_and_a_flag_wins(tmp_path, tiny_settings):
    recipe = tmp_path / "a.toml"
    values = {**tiny_settings, "num_train_epochs": 9.0}
    recipe.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8")
    out = tmp_path / "deep" / "run"
    result = CliRunner().invoke(command_train, [str(recipe), "--out", str(out), "--num-train-epochs", "0.5", "--json"])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["checkpoint"] == str(out)
    assert told["settings"]["num_train_epochs"] == 0.5
    assert told["steps"] == 7
    assert "108 rows to train, 12 dev, 60 test, 3 labels; CPU with 1 threads, fp32" in result.stderr
    record = record_of(out)
    assert told == {"checkpoint": str(out), **{key: value for key, value in record.items() if key != "format"}}
    assert record["seconds"] > 0, "how long it took belongs to the record"


# What stands in the way


def test_what_stands_at_out_is_not_touched_unless_asked(config, tiny_checkpoint, tmp_path):
    out = Path(shutil.copytree(tiny_checkpoint, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=r"run exists already; give another --out, or --overwrite"):
        train(config())
    with pytest.raises(InputError, match=r"run exists already"):
        train(config(), resume=True)
    with pytest.raises(InputError, match="no such file"):
        train(config(train="missing.jsonl"), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    train(config(num_train_epochs=0.5), overwrite=True)
    assert record_of(out)["steps"] == 7
    assert not (tmp_path / "run.partial").exists()


def test_overwrite_does_not_empty_a_folder_that_is_no_checkpoint(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"run .*not a checkpoint"):
        train(config(num_train_epochs=0.1), overwrite=True)
    assert (tmp_path / "run" / "thesis.txt").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "no model", "cut weights", "words"])
def test_an_unknown_model_leaves_nothing_behind(config, tmp_path, kind):
    folder = tmp_path / "model"
    if kind == "empty":
        folder.mkdir()
    elif kind == "no model":
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "nothing"}', encoding="utf-8")
    elif kind != "missing":
        make_encoder(folder)
        name = "model.safetensors" if kind == "cut weights" else "config.json"
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="model") as caught:
        train(config(model=str(folder)))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "model") == []


# Kill, interrupt, resume


def interrupt(config: TrainConfig, step: int) -> Path:
    """Train until just before a step's checkpoint, press Ctrl-C, and return the folder that is left."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepBar, "on_step_end", on_step_end)
        with pytest.raises(BurnishError, match=f"interrupted at step {step} of"):
            train(config)
    assert not config.out.exists()
    return config.out.with_name(config.out.name + ".partial")


def assert_same_run(resumed: Path, whole: Path) -> None:
    first, second = record_of(resumed), record_of(whole)
    assert first["steps"] == second["steps"]
    assert furthest_apart(resumed, whole) < 1e-6
    assert first["best_step"] == second["best_step"]
    assert first["metrics"] == second["metrics"]
    assert len(first["curve"]) == len(second["curve"])
    for one, other in zip(first["curve"], second["curve"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert (resumed / "dev.jsonl").read_bytes() == (whole / "dev.jsonl").read_bytes()
    assert not resumed.with_name(resumed.name + ".partial").exists()


@pytest.mark.parametrize(
    ("step", "save_steps", "last"),
    [
        pytest.param(20, 0, 14, id="at the end of an epoch"),
        pytest.param(13, 5, 10, id="inside the first epoch"),
        pytest.param(33, 5, 30, id="inside a later epoch"),
        pytest.param(9, 0, None, id="before the first checkpoint"),
    ],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    config, tiny_checkpoint, monkeypatch, step, save_steps, last
):
    work = interrupt(config(save_steps=save_steps), step)
    checkpoints = sorted(int(path.name.split("-")[1]) for path in work.glob("checkpoint-*"))
    assert (checkpoints or [None])[-1] == last
    told, done = [], []
    monkeypatch.setattr(
        StepBar, "on_step_begin", lambda self, args, state, control, **_: done.append(state.global_step)
    )
    train(config(save_steps=save_steps), resume=True, log=told.append)
    assert done == list(range(last or 0, STEPS)), "steps were done twice, or left out"
    assert any(f"going on from {work}/checkpoint-{last}" in line for line in told) is (last is not None)
    assert_same_run(config().out, tiny_checkpoint)


def test_a_run_that_stopped_between_an_epoch_and_its_score_loses_no_score(config, tiny_checkpoint, monkeypatch):
    settings = config(save_steps=7)

    def on_evaluate(self, args, state, control, **_):
        if state.global_step == 3 * STEPS_OF_AN_EPOCH:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepBar, "on_evaluate", on_evaluate)
        with pytest.raises(BurnishError, match="interrupted at step 42"):
            train(settings)
    train(settings, resume=True)
    assert_same_run(settings.out, tiny_checkpoint)


def test_a_run_that_failed_while_it_wrote_its_result_goes_on(config, tiny_checkpoint, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fit.curve, "draw", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises((OSError, BurnishError)):
            train(config())
    assert not config().out.exists()
    train(config(), resume=True)
    assert_same_run(config().out, tiny_checkpoint)


@pytest.mark.parametrize("cut", ["no state", "half a state"])
def test_a_checkpoint_that_was_cut_off_is_passed_over(config, tiny_checkpoint, cut):
    settings = config(save_steps=7)
    work = interrupt(settings, 32)
    broken = Path(shutil.copytree(work / "checkpoint-28", work / "checkpoint-31"))
    state = broken / "trainer_state.json"
    if cut == "no state":
        state.unlink()
    else:  # what a full disk leaves
        state.write_bytes(state.read_bytes()[:100])
    train(settings, resume=True)
    assert_same_run(settings.out, tiny_checkpoint)


def test_patience_counts_on_after_a_resume(config):
    settings = config(learning_rate=0.0, early_stopping_patience=2, test=None)
    interrupt(settings, 30)
    assert train(settings, resume=True)["steps"] == 3 * STEPS_OF_AN_EPOCH, "an uninterrupted run stops there"


def test_resume_with_other_settings_is_refused(config, tmp_path):
    work = interrupt(config(), 16)
    with pytest.raises(
        InputError, match=r"run\.partial was begun with other settings: seed was 42 and is 7, learning_rate was 0.002"
    ):
        train(config(learning_rate=0.1, seed=7), resume=True)
    with pytest.raises(InputError, match=r"run\.partial holds an unfinished run; --resume goes on with it"):
        train(config())
    assert (work / "checkpoint-14").exists()
    train(config(num_train_epochs=0.5), overwrite=True)
    assert record_of(tmp_path / "run")["steps"] == 7


def test_resume_on_other_rows_is_refused(config, tmp_path):
    path = write_rows(tmp_path / "a.jsonl", labelled_rows(120))
    interrupt(config(train=str(path)), 16)
    write_rows(path, labelled_rows(120, seed=3))
    with pytest.raises(InputError, match=r"run\.partial was begun with other"):
        train(config(train=str(path)), resume=True)


@pytest.fixture
def start(command, environment, tiny_settings):
    """Return a function that starts the tiny run in its own process, with a checkpoint every other step."""
    started = []

    def begin(out: Path, *more: str) -> subprocess.Popen[str]:
        flags = [part for key, value in tiny_settings.items() for part in ("--" + key.replace("_", "-"), str(value))]
        process = subprocess.Popen(
            [command, "train", *flags, "--out", str(out), "--save-steps", "2", *more],
            env=environment,
            encoding="utf-8",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if hasattr(os, "sched_setaffinity"):  # one thread, as on_one_thread
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for_checkpoint(process: subprocess.Popen[str], work: Path, step: int) -> None:
    """Wait until the run has written a whole checkpoint of that step or a later one."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if any(int(path.parent.name.split("-")[1]) >= step for path in work.glob("checkpoint-*/trainer_state.json")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise TimeoutError(f"no checkpoint in {work}")


def test_a_killed_run_resumes_to_the_same_end(start, tmp_path, tiny_checkpoint):
    out, work = tmp_path / "run", tmp_path / "run.partial"
    process = start(out)
    wait_for_checkpoint(process, work, STEPS // 2 - 1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    again = start(out, "--resume", "--json")
    stdout, stderr = again.communicate(timeout=120)
    assert again.returncode == 0, stderr
    told = stderr.splitlines()
    assert told[0].startswith("108 rows to train, 12 dev, 60 test, 3 labels; CPU with 1 threads, fp32")
    assert told[1].startswith(f"going on from {work}/checkpoint-")
    assert all(line.startswith("epoch ") for line in told[2:]), "a bar, a warning, or a note of a library"
    record, whole = record_of(out), record_of(tiny_checkpoint)
    assert json.loads(stdout)["steps"] == record["steps"] == whole["steps"] == STEPS
    assert abs(record["metrics"]["dev"]["accuracy"] - whole["metrics"]["dev"]["accuracy"]) <= 0.005
    assert_same_run(out, tiny_checkpoint)


def test_control_c_in_training_keeps_the_last_checkpoint_and_resume_goes_on(start, config, tmp_path, tiny_checkpoint):
    out, work = tmp_path / "run", tmp_path / "run.partial"
    process = start(out)
    wait_for_checkpoint(process, work, 16)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stdout == ""
    (said,) = [line for line in stderr.splitlines() if line.startswith("burnish:")]
    assert stderr.splitlines()[-1] == said
    assert "Traceback" not in stderr
    assert f"of {STEPS}" in said
    assert str(work / "checkpoint-") in said
    assert "--resume goes on" in said
    assert not out.exists()
    train(config(save_steps=2), resume=True)
    assert_same_run(out, tiny_checkpoint)
