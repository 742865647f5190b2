"""A model that is compiled before it learns: the same weights, one graph for all lengths, what is said on failure.

The backend is PyTorch's own graph, run as it is, which no compiler is needed for; a slow test takes the real one.
"""

from __future__ import annotations

import sys

import pytest
import torch
import transformers
from safetensors import safe_open

from burnish_serve.errors import BurnishError, DeviceError, InputError
from burnish_train import device, train
from burnish_train.device import check_compiler
from burnish_train.multitask.config import read_recipe
from tiny_model import make_encoder
from training import furthest_apart, record_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # PyTorch's own, of its compiler
]


@pytest.fixture(autouse=True)
def forgotten():
    """Let nothing that was compiled be left for the next test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs(monkeypatch):
    """Return a list that each compiled graph's batch goes into; graphs run as they are."""
    found = []

    def backend(graph, given):
        found.append(next(one.shape for one in given if getattr(one, "dtype", None) == torch.int64))
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **rest: real(model, **{**rest, "backend": backend}))
    monkeypatch.setattr("burnish_train.fit.check_compiler", lambda *, cuda: None)
    return found


@pytest.fixture
def still_config(train_config, tmp_path):
    """Return a function that makes the settings of a short run without dropout, whose random numbers would differ."""
    encoder = str(make_encoder(tmp_path / "still", dropout=0.0))
    return lambda **changes: train_config(model=encoder, num_train_epochs=2.0, **changes)


class Stop(transformers.TrainerCallback):
    """Ends a run in the middle."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 23:
            raise RuntimeError("stop")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="the architecture's head"),
        pytest.param({"pooling": "mean"}, id="a head of ours"),
        pytest.param({"precision": "bf16"}, id="bf16"),
        pytest.param({"lora_rank": 2}, id="LoRA"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointing"),
        pytest.param({"rdrop_alpha": 1.0, "ema_decay": 0.9}, id="R-Drop and an average"),
        pytest.param({"adversarial_epsilon": 1.0}, id="adversarial"),
        pytest.param({"distill_hidden": 1.0, "distill_attention": 1.0, "pooling": "mean"}, id="a teacher's layers"),
    ],
)
def test_it_learns_what_it_would_have_learned_by_one_graph_for_all_lengths(
    still_config, mean_checkpoint, tmp_path, graphs, settings
):
    taught = {"teacher": (str(mean_checkpoint),)} if "distill_hidden" in settings else {}
    plain = train(still_config(**settings, **taught, out=tmp_path / "plain"))
    assert not graphs
    record = train(still_config(**settings, **taught, torch_compile=True))
    assert len(graphs) == 1, f"compiled again for batches {graphs}"
    apart = furthest_apart(tmp_path / "run", tmp_path / "plain")
    assert apart <= (0 if "precision" not in settings else 1e-2), "bf16 is rounded elsewhere, at a rate of 2e-3"
    assert "precision" in settings or record["metrics"] == plain["metrics"]


def test_checkpoints_name_weights_as_ever_and_a_run_goes_on_from_them(train_config, tmp_path, graphs):
    settings = {"torch_compile": True, "num_train_epochs": 2.0, "save_steps": 5}
    whole = train(train_config(**settings, out=tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="stop"):
        train(train_config(**settings), callbacks=[Stop()])
    with safe_open(tmp_path / "run.partial" / "checkpoint-20" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    with safe_open(tmp_path / "whole" / "model.safetensors", "pt") as file:
        assert names == set(file.keys())
    told = []
    resumed = train(train_config(**settings), resume=True, log=told.append)
    assert any("going on from" in line and line.endswith("checkpoint-20") for line in told)
    assert furthest_apart(tmp_path / "run", tmp_path / "whole") == 0
    assert resumed["metrics"] == whole["metrics"]
    assert record_of(tmp_path / "run")["settings"]["torch_compile"] is True


def test_no_cpp_compiler_is_said_before_anything_is_read(train_config):
    from torch._inductor import config

    with config.patch({"cpp.cxx": (sys.executable,)}):  # which tells its version too
        check_compiler(cuda=False)
    without = config.patch({"cpp.cxx": ("no-such-compiler",)})
    with without, pytest.raises(DeviceError, match=r"^--torch-compile needs a C\+\+ compiler, and there is none"):
        train(train_config(torch_compile=True, train="no.jsonl"))
    assert not train_config().out.with_name("run.partial").exists()


def test_what_is_missing_for_a_gpu_is_said(monkeypatch):
    from torch.utils import _triton

    monkeypatch.setattr(_triton, "has_triton_package", lambda: True)
    monkeypatch.setenv("CC", sys.executable)
    check_compiler(cuda=True)
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(device.shutil, "which", {}.get)
    with pytest.raises(DeviceError, match="needs a C compiler on a GPU, and there is none"):
        check_compiler(cuda=True)
    monkeypatch.setattr(_triton, "has_triton_package", lambda: False)
    with pytest.raises(DeviceError, match="needs Triton on a GPU"):
        check_compiler(cuda=True)


def test_a_compiler_that_fails_is_told_by_its_error(train_config, monkeypatch):
    from torch._inductor.exc import CppCompileError

    def backend(graph, given):
        raise CppCompileError(["g++"], "In file included from a.cpp:1:\na.h:8: fatal error: Python.h: No such file\n")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **rest: real(model, **{**rest, "backend": backend}))
    with pytest.raises(
        BurnishError, match=r"^the model cannot be compiled here: a\.h:8: fatal error: Python\.h: No such file; leave"
    ):
        train(train_config(torch_compile=True))
    assert train(train_config(num_train_epochs=0.5))["steps"] == 7, "without it, the same folder can be taken"


def test_several_tasks_refuse_it(tmp_path):
    recipe = tmp_path / "tasks.toml"
    recipe.write_text("torch_compile = true\n[[tasks]]\nname = 'a'\ntrain = 'a.jsonl'\n", encoding="utf-8")
    with pytest.raises(InputError, match="torch_compile is not for several tasks"):
        read_recipe(recipe, model="encoder", out=tmp_path / "out")


@pytest.mark.slow
def test_the_real_compiler_learns_the_same(still_config, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    settings = {"pooling": "mean", "ema_decay": 0.9}
    plain = train(still_config(**settings, out=tmp_path / "plain"))
    record = train(still_config(**settings, torch_compile=True))
    assert furthest_apart(tmp_path / "run", tmp_path / "plain") < 1e-5
    scores = [{k: v for k, v in one["metrics"]["dev"].items() if isinstance(v, float)} for one in (record, plain)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
