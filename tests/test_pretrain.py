"""An encoder from nothing: its vocabulary, what it learns, that it goes on where it was stopped, and ends in time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from safetensors.numpy import load_file
from transformers.trainer_utils import get_last_checkpoint

from burnish_serve.errors import BurnishError, InputError
from burnish_train import checkpoint, deadline
from burnish_train.cli import pretrain as command
from burnish_train.deadline import Deadline
from burnish_train.methods.schedule import schedule_for
from burnish_train.pretrain import pretrain, read_texts
from burnish_train.pretrain_config import SIZES, PretrainConfig, read_recipe
from burnish_train.progress import StepBar
from tiny_model import labelled_rows, on_one_thread, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPES = sorted((Path(__file__).parents[1] / "train" / "recipes").glob("pretrain*.toml"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    rows = [{"text": row["text"]} for row in labelled_rows(300)]
    return write_rows(tmp_path_factory.mktemp("texts") / "texts.jsonl", rows)


@pytest.fixture
def config(texts, tmp_path):
    """Return a function that makes the settings of a run of a second, with some changed."""
    tiny = {"size": "tiny", "vocab_size": 200, "max_length": 32, "num_train_epochs": 6.0, "dev_fraction": 0.1}
    run = {"device": "cpu", "precision": "fp32", "per_device_train_batch_size": 8, "learning_rate": 3e-3}
    return lambda **changes: PretrainConfig(
        **{"train": (str(texts),), "out": tmp_path / "encoder", **tiny, **run, **changes}
    )


# The texts


def test_texts_are_read_from_rows_of_several_tasks(tmp_path):
    mixed = [{"text": "a text", "label": "x"}, {"tokens": ["我", "们", "!"], "tags": ["O"] * 3}, {"text": " "}]
    rows = write_rows(tmp_path / "mixed.jsonl", [*mixed, {"tokens": ["two", "words"]}])
    (tmp_path / "lines.txt").write_text("a line\n\nanother\n", encoding="utf-8")
    files = (str(rows), str(tmp_path / "lines.txt"), str(tmp_path / "lines.txt"))
    splits = read_texts(PretrainConfig(train=files, out=tmp_path / "x", dev_fraction=0))
    lines = ["a line", "another"]
    assert [row.texts for row in splits.train] == [(text,) for text in ["a text", "我们!", "two words", *lines, *lines]]
    assert {name: about["rows"] for name, about in splits.sources["train"]["files"].items()} == {
        files[0]: 4,
        files[1]: 2,
    }


def test_a_text_stands_in_train_or_in_dev(tmp_path, texts):
    splits = read_texts(PretrainConfig(train=(str(texts), str(texts)), out=tmp_path / "x", dev_fraction=0.1))
    train, dev = ({row.texts for row in rows} for rows in (splits.train, splits.dev))
    assert not train & dev
    assert len(dev) == 30
    assert len(splits.dev) == 60


@pytest.mark.parametrize(
    ("row", "message"), [({"review": "x"}, r"bad.jsonl:2: no column 'text'"), ({"text": 5}, r"bad.jsonl:2: .* not 5")]
)
def test_a_row_without_a_text_is_named(row, message, tmp_path):
    path = write_rows(tmp_path / "bad.jsonl", [{"text": "a"}, row])
    with pytest.raises(InputError, match=message):
        read_texts(PretrainConfig(train=(str(path),), out=tmp_path / "x"))


# The run


@pytest.fixture(scope="module")
def encoder(texts, tmp_path_factory):
    """Return a pretrained encoder; not to be written to."""
    return pretrained(texts, tmp_path_factory.mktemp("pretrained") / "encoder")


def pretrained(texts: Path, out: Path, architecture: str = "modernbert", epochs: int = 20) -> Path:
    """Return a folder with an encoder that the command made."""
    arguments = [
        *("--architecture", architecture, "--train", texts, "--out", out, "--size", "tiny", "--vocab-size", 200),
        *("--num-train-epochs", epochs, "--dev-fraction", 0.1, "--device", "cpu", "--precision", "fp32"),
        *("--max-length", 32, "--per-device-train-batch-size", 8, "--learning-rate", 3e-3, "--json"),
    ]
    with on_one_thread():
        done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["checkpoint"] == str(out)
    return out


def record_of(folder: Path) -> dict:
    return json.loads((folder / "burnish.json").read_text(encoding="utf-8"))


def test_held_out_texts_become_likelier(encoder):
    record = record_of(encoder)
    perplexities = [point["eval_perplexity"] for point in record["curve"] if "eval_perplexity" in point]
    assert len(perplexities) == 20
    tokens = transformers.AutoConfig.from_pretrained(encoder).vocab_size
    assert perplexities[0] < 1.2 * tokens
    assert record["metrics"]["dev"]["perplexity"] < 0.8 * perplexities[0]
    losses = [point["loss"] for point in record["curve"] if "loss" in point]
    assert np.mean(losses[:5]) == pytest.approx(math.log(tokens), abs=0.8), "it begins with no knowledge"
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3


@pytest.mark.parametrize("architecture", ["modernbert", "bert"])
def test_the_folder_is_a_model_as_anyone_loads_it(architecture, encoder, texts, tmp_path):
    if architecture != "modernbert":
        encoder = pretrained(texts, tmp_path / "encoder", architecture, epochs=1)
    model = transformers.AutoModel.from_pretrained(encoder)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size) == SIZES["tiny"]
    assert (config.num_attention_heads, config.max_position_embeddings) == (2, 32)
    shares = {value for name, value in config.to_dict().items() if "dropout" in name and isinstance(value, float)}
    assert shares == {0.1}
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    assert config.pad_token_id == tokenizer.pad_token_id
    count = sum(weight.numel() for name, weight in model.named_parameters() if "embeddings" not in name)
    squares = {"bert": 12, "modernbert": 10}[config.model_type]  # of a layer, of the width
    assert count == pytest.approx(2 * squares * 128**2, rel=0.1)
    assert config.vocab_size == len(tokenizer) <= 200
    assert model(**tokenizer("play some music", return_tensors="pt")).last_hidden_state.shape[-1] == 128
    record = record_of(encoder)
    assert record["base_model"] is None
    assert (record["task"], record["max_length"], record["stride"]) == ("fill-mask", 32, 0)
    assert record["settings"]["size"] == "tiny"
    assert record["data"]["train"]["files"][str(texts)]["rows"] == 300
    answers = checkpoint.load(encoder, device="cpu")("please [MASK] music")
    assert len(answers[0]) == 5


def test_fine_tuning_takes_the_folder(encoder, make_checkpoint):
    folder = make_checkpoint(model=str(encoder), pooling="mean", num_train_epochs=3.0)
    assert record_of(folder)["base_model"] == str(encoder)
    assert record_of(folder)["metrics"]["test"]["accuracy"] > 0.5


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def furthest_apart(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def test_a_stopped_run_goes_on_to_the_same_end(config, tmp_path, monkeypatch):
    pretrain(config(out=tmp_path / "whole", num_train_epochs=3.0))
    settings = config(out=tmp_path / "stopped", num_train_epochs=3.0, save_steps=4)
    end = StepBar.on_step_end

    def stop(self, args, state, control, **kwargs):
        end(self, args, state, control, **kwargs)
        if state.global_step == 14:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepBar, "on_step_end", stop)
        with pytest.raises(BurnishError, match=r"interrupted at step 14 of \d+; .*checkpoint-12"):
            pretrain(settings)
    assert get_last_checkpoint(str(tmp_path / "stopped.partial")).endswith("checkpoint-12")
    told = []
    pretrain(settings, resume=True, log=told.append)
    assert any("going on from" in line for line in told)
    assert furthest_apart(tmp_path / "whole", tmp_path / "stopped") < 1e-6
    assert (tmp_path / "whole/tokenizer.json").read_bytes() == (tmp_path / "stopped/tokenizer.json").read_bytes()


def test_resume_with_another_size_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(StepBar, "on_evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(BurnishError):
        pretrain(config(save_steps=2))
    with pytest.raises(InputError, match=r"model was 'a new tiny \w+, 200 .* and is 'a new tiny \w+, 199"):
        pretrain(config(save_steps=2, vocab_size=199), resume=True)


def test_every_recipe_is_one(tmp_path):
    assert len(RECIPES) == 2
    for path in RECIPES:
        assert read_recipe(path, train=("a.jsonl",), out=tmp_path / "x").size in SIZES
        assert path.read_text(encoding="utf-8").startswith("# burnish pretrain train/recipes/")


def test_settings_that_are_wrong_are_told_at_once(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('train = "one"\nsize = "huge"\n', encoding="utf-8")
    with pytest.raises(
        InputError, match=r"train must be a list of texts, not 'one'; out is needed: .*; size must be one"
    ):
        read_recipe(path)
    path.write_text('train = ["a.txt", "b.txt"]\nout = "x"\n', encoding="utf-8")
    assert read_recipe(path, train=()).train == ("a.txt", "b.txt")
    assert read_recipe(path, train=("c.txt",)).train == ("c.txt",)


# In time


def test_the_rate_follows_steps_or_time_whichever_is_further():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    share = SimpleNamespace(over=0.0)
    plan = schedule_for("linear", optimizer, warmup=10, steps=100, progress=lambda: share.over)
    optimizer.step()

    def rate_at(step: int, over: float) -> float:
        share.over = over
        plan.last_epoch = step - 1
        plan.step()
        return optimizer.param_groups[0]["lr"]

    assert rate_at(5, 0.0) == pytest.approx(1.0)
    assert rate_at(10, 0.0) == pytest.approx(2.0)
    assert rate_at(55, 0.0) == pytest.approx(1.0)
    assert rate_at(5, 0.55) == pytest.approx(1.0), "a slow machine: little is done in most of the time"
    assert rate_at(11, 1.0) == 0
    assert rate_at(100, 0.3) == 0
    assert rate_at(120, 0.3) == 0


def test_training_stops_when_its_time_is_over(config, monkeypatch):
    now = SimpleNamespace(seconds=0.0)

    def clock() -> float:
        now.seconds += 0.5
        return now.seconds

    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=clock))
    record = pretrain(config(num_train_epochs=50.0, max_minutes=0.5))
    assert 10 < record["steps"] < 60
    rates = [point["learning_rate"] for point in record["curve"] if "loss" in point]
    assert max(rates) > 2e-3
    assert rates[-1] < 2e-4
    assert "eval_perplexity" in record["curve"][-1], "what it ends with is scored"


def test_time_before_a_resume_counts(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    first = Deadline(2)
    first.on_train_begin(None, None, None)
    now.seconds = 160.0
    assert first.progress == 0.5
    again = Deadline.from_state(first.state())
    now.seconds = 1000.0
    again.on_train_begin(None, None, None)
    control = SimpleNamespace(should_training_stop=False)
    now.seconds = 1059.0
    again.on_step_end(None, None, control)
    assert not control.should_training_stop
    now.seconds = 1060.0
    again.on_step_end(None, None, control)
    assert control.should_training_stop
    assert again.progress == 1
    assert Deadline(0).progress == 0
