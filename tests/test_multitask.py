"""Several tasks on one encoder: what they share, their order, gradients against plain PyTorch, and what is refused."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from burnish_export import ExportConfig, export
from burnish_serve import load
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, checkpoint
from burnish_train.data import read_splits
from burnish_train.multitask.cli import train_multitask as command
from burnish_train.multitask.config import MixConfig, MultitaskConfig, read_recipe
from burnish_train.multitask.fit import assemble, make_trainer, train_multitask
from burnish_train.multitask.order import MixedBatches, shares
from tiny_model import labelled_rows, make_encoder, write_rows
from tiny_tasks import WAYS
from training import begun_before, furthest_apart, record_of, weights

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = st.lists(st.integers(1, 60), min_size=2, max_size=4)


@pytest.fixture(scope="module")
def loud_rows(tmp_path_factory):
    """Return the file of a second task's 40 rows: whether a text is about music."""
    rows = [{**row, "label": "loud" if row["label"] == "music" else "quiet"} for row in labelled_rows(40, seed=5)]
    return str(write_rows(tmp_path_factory.mktemp("loud") / "loud.jsonl", rows))


@pytest.fixture
def make_config(tiny_settings, loud_rows, tmp_path):
    """Return a function that makes the settings of two tasks, with some changed."""

    def make(*, out=None, temperature=1.0, intent=None, loud=None, **changes):
        out = out or tmp_path / "run"
        common = {**tiny_settings, "num_train_epochs": 3.0, **changes}
        tasks = {
            "intent": TrainConfig(**{**common, "pooling": "mean", "out": out / "intent", **(intent or {})}),
            "loud": TrainConfig(**{**common, "train": loud_rows, "test": None, "out": out / "loud", **(loud or {})}),
        }
        mix = MixConfig(task_sampling_temperature=temperature)
        return MultitaskConfig(out=out, tasks=tasks, weights={"intent": 1.0, "loud": 0.5}, mix=mix)

    return make


def make_parts(config, work):
    transformers.set_seed(config.shared.seed)
    work.mkdir(exist_ok=True)
    splits = {name: read_splits(settings) for name, settings in config.tasks.items()}
    return assemble(config, splits, work, cuda=False)


def encoder_weights(folder):
    """Return the weights below the head, by the encoder's own names."""
    found = {name.removeprefix("bert."): array for name, array in weights(folder).items()}
    heads = ("classifier", "weight", "bias", "qa_")
    return {name: array for name, array in found.items() if not name.startswith(heads)}


def test_both_checkpoints_have_the_encoder_that_both_have_trained(make_config, tiny_encoder):
    said = []
    record = train_multitask(make_config(), log=said.append)
    assert [line for line in said if "probe" in line] == ["intent: starting the head from a linear probe of 108 rows"]
    out = make_config().out
    one, other = encoder_weights(out / "intent"), encoder_weights(out / "loud")
    before = encoder_weights(tiny_encoder)
    assert one.keys() == other.keys() == before.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not any(np.array_equal(one[name], before[name]) for name in one if name.endswith("dense.weight"))
    assert record["tasks"]["intent"]["metrics"]["test"]["accuracy"] >= 0.8
    assert not out.with_name("run.partial").exists()
    assert json.loads((out / "multitask.json").read_text(encoding="utf-8"))["tasks"] == record["tasks"]
    told = record_of(out / "loud")
    assert told["labels"] == ["loud", "quiet"]
    assert told["settings"]["out"] == str(out / "loud")
    assert told["multitask"]["trained_with"]["intent"] == {"task": "text-classification", "weight": 1.0, "rows": 108}
    config = transformers.AutoConfig.from_pretrained(out / "loud")
    assert set(config.id2label.values()) == {"loud", "quiet"}
    assert len(transformers.AutoConfig.from_pretrained(out / "intent").id2label) == 3


def test_the_epoch_is_chosen_by_the_mean_of_all_tasks(make_config):
    record = train_multitask(make_config(num_train_epochs=4.0))
    points = [point for point in record["curve"] if "eval_loss" in point]
    assert len(points) == 4
    for point in points:
        both = [point["eval_intent/accuracy"], point["eval_loud/accuracy"]]
        assert point["eval_mean_score"] == pytest.approx(np.mean(both))
    best = max(points, key=lambda point: point["eval_mean_score"])
    assert record["best_step"] == best["step"]
    assert record["mean_score"] == best["eval_mean_score"]
    for name in ("intent", "loud"):
        told = record_of(make_config().out / name)
        own = [point["eval_accuracy"] for point in told["curve"] if "eval_loss" in point]
        assert own == [point[f"eval_{name}/accuracy"] for point in points]
        assert not any("/" in key or "mean" in key for point in told["curve"] for key in point)
        assert told["metrics"]["dev"]["accuracy"] == best[f"eval_{name}/accuracy"]


@given(SIZES, st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_each_row_comes_once_an_epoch_in_batches_of_one_task(sizes, batch_size, seed, epoch):
    tasks = [[{"input_ids": [0] * (1 + row % 5)} for row in range(size)] for size in sizes]
    batches = MixedBatches(batch_size, tasks, seed=seed, temperature=1.0)
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    assert sorted(row for batch in found for row in batch) == list(range(sum(sizes)))
    task_of = np.repeat(range(len(sizes)), sizes)
    assert all(len({int(task_of[row]) for row in batch}) == 1 for batch in found)
    assert found == list(batches)


@given(SIZES, st.integers(1, 9), st.floats(1, 20))
def test_no_row_comes_again_before_all_others_of_its_task(sizes, batch_size, temperature):
    tasks = [[{"input_ids": [0]}] * size for size in sizes]
    batches = MixedBatches(batch_size, tasks, seed=0, temperature=temperature)
    seen = collections.Counter()
    for epoch in range(4):
        batches.set_epoch(epoch)
        for batch in batches:
            seen.update(batch)
    start = 0
    for size in sizes:
        counts = [seen[row] for row in range(start, start + size)]
        assert max(counts) - min(counts) <= 1
        start += size


def test_epochs_and_seeds_differ_in_their_order():
    tasks = [[{"input_ids": [0]}] * 30] * 2
    mixes, firsts = set(), set()
    for seed, epoch in ((0, 0), (0, 1), (7, 0)):
        batches = MixedBatches(4, tasks, seed=seed, temperature=1.0)
        batches.set_epoch(epoch)
        mixes.add(tuple(min(batch) >= 30 for batch in batches))
        firsts.add(tuple(row for batch in batches for row in batch if row < 30))
    assert len(mixes) == len(firsts) == 3


@pytest.mark.parametrize(
    ("batches", "temperature", "wanted"),
    [([30, 10], 1.0, [30, 10]), ([64, 16], 2.0, [53, 27]), ([30, 10], 1e9, [20, 20]), ([1000, 1], 1.0, [1000, 1])],
)
def test_shares_by_hand(batches, temperature, wanted):
    assert shares(batches, temperature) == wanted  # 80 * 8 / (8 + 4) = 53.3


def test_gradients_are_those_of_plain_pytorch(make_config, tmp_path):
    config = make_config(model=str(make_encoder(tmp_path / "still", dropout=0.0)), loud={"class_weights": "balanced"})
    model, parts = make_parts(config, tmp_path / "work")
    trainer = make_trainer(config, tmp_path / "work", parts, model, cuda=False, precision="fp32")
    trainer.current_gradient_accumulation_steps = 1
    reference = transformers.BertModel.from_pretrained(tmp_path / "still").train()
    heads = [torch.nn.Linear(32, count) for count in (3, 2)]
    for head, part in zip(heads, parts, strict=True):
        head.load_state_dict(part.model.classifier.state_dict())
    seen = set()
    total = torch.zeros(())
    for batch in trainer.get_train_dataloader():
        if batch["task"] in seen:
            continue
        seen.add(batch["task"])
        number = batch["task"]
        given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        outputs = reference(**given)
        mask = given["attention_mask"][..., None]
        vectors = [(outputs.last_hidden_state * mask).sum(1) / mask.sum(1), outputs.pooler_output][number]
        counts = torch.bincount(torch.tensor([item["value"] for item in parts[1].train_dataset]))
        balanced = counts.sum() / (2 * counts)
        loss = torch.nn.functional.cross_entropy(heads[number](vectors), batch["labels"], [None, balanced][number])
        total = total + loss * [1.0, 0.5][number]
        told = trainer.training_step(trainer.model, batch)
        assert float(told) == pytest.approx(float(loss.detach()) * [1.0, 0.5][number], rel=1e-5)
    assert seen == {0, 1}
    total.backward()
    for part, head in zip(parts, heads, strict=True):
        assert torch.allclose(part.model.classifier.weight.grad, head.weight.grad, atol=1e-6)
        own = dict(getattr(part.model, "bert", getattr(part.model, "encoder", None)).named_parameters())
        wanted = dict(reference.named_parameters())
        assert own.keys() == wanted.keys()
        for name, weight in own.items():
            assert torch.allclose(weight.grad, wanted[name].grad, atol=1e-6), name


def test_models_have_the_very_same_parts(make_config, tmp_path):
    model, (one, other) = make_parts(make_config(), tmp_path / "work")
    assert one.model.encoder.encoder is other.model.bert.encoder
    assert one.model.encoder.embeddings is other.model.bert.embeddings
    assert one.model.config is not other.model.config
    alone = sum(weight.numel() for weight in one.model.parameters())
    assert sum(weight.numel() for weight in model.parameters()) == alone + 32 * 2 + 2
    assert {tensor.data_ptr() for tensor in model.weights().values()} >= {w.data_ptr() for w in model.parameters()}
    assert len({tensor.data_ptr() for tensor in model.weights().values()}) == len(model.weights())


def test_models_of_all_tasks_compute_in_the_precision_of_training(make_config, tmp_path):
    config = make_config()
    model, parts = make_parts(config, tmp_path / "work")
    trainer = make_trainer(config, tmp_path / "work", parts, model, cuda=False, precision="bf16")
    trainer.current_gradient_accumulation_steps = 1
    seen = []
    query = parts[1].model.bert.encoder.layer[0].attention.self.query
    query.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    trainer.dev_scores()
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


class Stop(transformers.TrainerCallback):
    """Ends a run in the middle."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 23:
            raise RuntimeError


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain"),
        pytest.param({"temperature": 3.0, "ema_decay": 0.9}, id="a temperature and an average"),
        pytest.param({"lora_rank": 2}, id="LoRA"),
        pytest.param({"adversarial_epsilon": 1.0, "word_dropout": 0.1, "gradient_checkpointing": True}, id="holes"),
        pytest.param(
            {
                "gradient_accumulation_steps": 2,
                "per_device_train_batch_size": 4,
                "layer_lr_decay": 0.8,
                "freeze_layers": 1,
            },
            id="accumulation",
        ),
        pytest.param({"reinit_layers": 1, "unfreeze_every": 0.5, "rdrop_alpha": 1.0}, id="layers anew"),
    ],
)
def test_an_interrupted_run_ends_with_the_same_weights(make_config, tmp_path, settings):
    settings = {"save_steps": 5, **settings}
    whole = train_multitask(make_config(out=tmp_path / "whole", **settings))
    with pytest.raises(RuntimeError):
        train_multitask(make_config(**settings), callbacks=[Stop()])
    told = []
    resumed = train_multitask(make_config(**settings), resume=True, log=told.append)
    assert any("going on from" in line and line.endswith("checkpoint-20") for line in told)
    for name in ("intent", "loud"):
        assert furthest_apart(tmp_path / "run" / name, tmp_path / "whole" / name) == 0
    assert resumed["tasks"] == whole["tasks"]


def test_seconds_are_those_of_all_starts(make_config):
    config = make_config(num_train_epochs=1.0)
    begun_before(config.out, 1000.0)
    assert 1000 < train_multitask(config, resume=True)["seconds"] < 2000


def test_a_run_is_gone_on_with_under_the_same_settings_alone(make_config):
    with pytest.raises(RuntimeError):
        train_multitask(make_config(save_steps=5), callbacks=[Stop()])
    with pytest.raises(InputError, match="holds an unfinished run; --resume goes on"):
        train_multitask(make_config(save_steps=5))
    with pytest.raises(InputError, match="begun with other settings: tasks was"):
        train_multitask(make_config(save_steps=5, loud={"label_smoothing_factor": 0.1}), resume=True)


def test_every_kind_of_task_learns_with_the_others(tiny_settings, tmp_path):
    ways = {name.replace(" ", "-"): way for name, way in WAYS.items() if way.task != "fill-mask"}
    tasks = {}
    for name, way in ways.items():
        path = str(write_rows(tmp_path / f"{name}.jsonl", way.rows(40, 0)))
        own = {key: value for key, value in way.settings.items() if key != "learning_rate"}
        settings = {**tiny_settings, "test": None, "max_length": 32, "num_train_epochs": 1.0, **own}
        tasks[name] = TrainConfig(**{**settings, "task": way.task, "train": path, "out": tmp_path / "out" / name})
    train_multitask(MultitaskConfig(out=tmp_path / "out", tasks=tasks, weights=dict.fromkeys(tasks, 1.0)))
    first = encoder_weights(tmp_path / "out" / "relation-extraction")
    for name, way in ways.items():
        runner = checkpoint.load(tmp_path / "out" / name, device="cpu", threads=1)
        assert len(runner(way.rows(5, 1))) == 5
        own = encoder_weights(tmp_path / "out" / name)
        assert {part: array.shape for part, array in own.items()} == {part: first[part].shape for part in own}
        assert all(np.array_equal(array, first[part]) for part, array in own.items()), name


def test_a_checkpoint_of_several_tasks_is_exported_as_any_other(make_config, tmp_path, at_any_speed):
    out = make_config().out
    train_multitask(make_config())
    texts = [row["text"] for row in labelled_rows(12, seed=9)]
    export(ExportConfig(checkpoint=str(out / "loud"), out=tmp_path / "bundle", seconds=0.01))
    answers = load(tmp_path / "bundle", variant="fp32", device="cpu", threads=1)(texts)
    for name in ("intent", "loud"):
        runner = checkpoint.load(out / name, device="cpu", threads=1)
        assert {answer["label"] for answer in runner(texts)} <= set(runner.labels)
    for answer, right in zip(answers, runner(texts), strict=True):
        assert answer["label"] == right["label"]
        assert answer["score"] == pytest.approx(right["score"], abs=1e-4)


RECIPE = """
learning_rate = 1e-3
[[tasks]]
name = "one"
train = "one.jsonl"
[[tasks]]
name = "two"
train = "two.jsonl"
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[[tasks]]", "[[others]]", r"names no tasks: give a table \[\[tasks]] for each"),
        ('name = "two"', 'name = "one"', "several tasks are named 'one'"),
        ('name = "two"', 'name = "../two"', "name '../two' is no folder's"),
        ('name = "two"', "weight = 0.0", "task 2: name is needed.*; weight must be at least 0.001"),
        ('train = "two.jsonl"', "", "task two: train is missing"),
        (
            'name = "two"',
            'name = "two"\nlearning_rate = 1e-4\nseed = 1',
            "two: learning_rate is shared.*; seed is shared",
        ),
        ('name = "two"', 'name = "two"\nteacher = ["a"]', "task two: teacher is not for several tasks"),
        ('name = "two"', 'name = "two"\nepochs = 3', "task two: unknown key 'epochs'"),
        ('name = "two"', 'name = "two"\nmax_length = "long"', "task two: max_length must be a whole number"),
        ('name = "two"', 'name = "two"\ntask = "fill-mask"', "the task 'two' is fill-mask"),
        (
            'name = "two"',
            'name = "two"\ntask = "regression"\nclass_weights = "sqrt"',
            "class_weights 'sqrt' is for tasks",
        ),
        ("learning_rate = 1e-3", 'pooling = "mean"', r"pooling is for one task: set it in a table \[\[tasks]]"),
        ("learning_rate = 1e-3", "keep_layers = 1", "keep_layers is not for several tasks"),
        ("learning_rate = 1e-3", "task_sampling_temperature = 0.5", "task_sampling_temperature must be at least 1"),
        ('[[tasks]]\nname = "two"\ntrain = "two.jsonl"', "", "at least two tasks learn together, not 1"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path, before, after, message):
    assert before in RECIPE
    path = tmp_path / "tasks.toml"
    path.write_text(RECIPE.replace(before, after), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_recipe(path, model="encoder", out=tmp_path / "run")


def test_a_recipe_and_flags_become_settings(tmp_path):
    path = tmp_path / "tasks.toml"
    two = 'name = "two"\ntask = "regression"\nweight = 2\nmax_length = 64'
    path.write_text("max_length = 128\n" + RECIPE.replace('name = "two"', two), encoding="utf-8")
    config = read_recipe(path, model="encoder", out=tmp_path / "run", learning_rate=1e-2, task_sampling_temperature=2)
    one, other = config.tasks["one"], config.tasks["two"]
    assert (one.max_length, other.max_length, other.task) == (128, 64, "regression")
    assert one.learning_rate == other.learning_rate == 1e-2
    assert other.out == tmp_path / "run" / "two"
    assert (config.weights, config.mix.task_sampling_temperature) == ({"one": 1.0, "two": 2.0}, 2.0)


def test_what_cannot_be_trained_leaves_nothing(make_config, monkeypatch):
    with pytest.raises(InputError, match="dev rows are for all tasks or for none; loud has none"):
        train_multitask(make_config(loud={"dev_fraction": 0.0}))
    with pytest.raises(InputError, match="reinit_layers 9: the encoder has 2 layers"):
        train_multitask(make_config(reinit_layers=9))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without torchrun"):
        train_multitask(make_config())
    assert not list(make_config().out.parent.glob("run*"))


def test_only_a_run_of_several_tasks_is_replaced(make_config, tiny_checkpoint):
    config = make_config(num_train_epochs=1.0)
    train_multitask(config)
    with pytest.raises(InputError, match="exists already"):
        train_multitask(config)
    train_multitask(config, overwrite=True)
    (config.out / "multitask.json").unlink()
    with pytest.raises(InputError, match="is not a run of several tasks of burnish"):
        train_multitask(config, overwrite=True)


def test_without_dev_rows_the_last_weights_are_kept(make_config):
    record = train_multitask(make_config(dev_fraction=0.0, num_train_epochs=1.0))
    assert record["mean_score"] is None
    assert record["best_step"] == record["steps"] == 15 + 5


def test_the_command(make_config, loud_rows, tiny_rows, tiny_encoder, tmp_path):
    path = tmp_path / "tasks.toml"
    files = RECIPE.replace("one.jsonl", str(tiny_rows / "train.jsonl")).replace("two.jsonl", loud_rows)
    path.write_text(files, encoding="utf-8")
    given = ["--model", tiny_encoder, "--num-train-epochs", 1, "--device", "cpu", "--max-length", 16]
    done = CliRunner().invoke(command, [str(word) for word in (path, *given, "--out", tmp_path / "run", "--json")])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert set(told["tasks"]) == {"one", "two"}
    assert record_of(tmp_path / "run" / "one")["max_length"] == 16
    again = CliRunner().invoke(command, [str(word) for word in (path, *given, "--out", tmp_path / "run")])
    assert again.exit_code == 1
    assert "exists already" in again.output
