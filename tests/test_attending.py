"""How attention is computed while a model learns: what is taken, what is refused, when FlashAttention has its turn."""

from __future__ import annotations

import pytest
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from burnish_serve.errors import DeviceError, InputError
from burnish_train import train
from burnish_train.methods import attention
from burnish_train.methods.attention import FLASH, attention_of
from test_architectures import MORE, SMALL
from tiny_model import make_tokenizer
from training import furthest_apart

pytestmark = pytest.mark.usefixtures("one_thread")
GPU = {"cuda": True, "precision": "bf16", "read": False}


@pytest.fixture
def named(monkeypatch):
    """Return a list of what is chosen; FlashAttention is sdpa in truth."""
    found = []
    real = transformers.PreTrainedModel.set_attn_implementation

    def choose(self, name, **rest):
        found.append(name)
        real(self, "sdpa" if name == FLASH else name, **rest)
        if name == FLASH:
            self.config._attn_implementation_internal = FLASH

    for functions in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        monkeypatch.setitem(functions, FLASH, functions["sdpa"])
    monkeypatch.setattr(transformers.PreTrainedModel, "set_attn_implementation", choose)
    return found


class Ends(transformers.TrainerCallback):
    """Puts both ends of training into a list."""

    def __init__(self, found):
        self.found = found

    def on_train_begin(self, *_, **__):
        self.found.append("begin")

    def on_train_end(self, *_, **__):
        self.found.append("end")


def test_what_is_taken():
    assert attention_of("auto", **GPU) is None
    assert attention_of("auto", **{**GPU, "read": True}) == "eager"
    assert attention_of("auto", cuda=False, precision="fp32", read=False) == "eager"
    assert attention_of("sdpa", cuda=False, precision="fp32", read=False) == "sdpa"


def test_flash_attention_is_refused_where_it_cannot_be(monkeypatch):
    with pytest.raises(DeviceError, match="flash_attention_2 needs a GPU, and bf16 or fp16"):
        attention_of(FLASH, cuda=False, precision="bf16", read=False)
    with pytest.raises(DeviceError, match="flash_attention_2 needs a GPU, and bf16 or fp16"):
        attention_of(FLASH, cuda=True, precision="fp32", read=False)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(DeviceError, match="needs flash-attn, which is not installed"):
        attention_of(FLASH, **GPU)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    assert attention_of(FLASH, **GPU) == FLASH


def test_a_run_refuses_it_before_anything_is_read(train_config):
    with pytest.raises(DeviceError, match="needs a GPU"):
        train(train_config(attn_implementation=FLASH, train="no.jsonl"))


def test_scores_that_are_read_are_written_down(train_config):
    with pytest.raises(InputError, match="distill_attention reads scores that attn_implementation 'sdpa' never writes"):
        train_config(distill_attention=1.0, teacher=("a",), attn_implementation="sdpa")


@pytest.mark.parametrize(("asked", "taken"), [("auto", "eager"), ("eager", "eager"), ("sdpa", "sdpa")])
def test_a_run_learns_by_what_was_asked_for(train_config, named, asked, taken):
    train(train_config(attn_implementation=asked, num_train_epochs=0.5))
    assert named == [taken]


def test_flash_attention_learns_and_is_gone_when_scores_are_computed_in_float32(
    train_config, tmp_path, named, monkeypatch
):
    settings = {"num_train_epochs": 1.0}
    train(train_config(**settings, attn_implementation="sdpa", out=tmp_path / "sdpa"))
    named.clear()
    monkeypatch.setattr("burnish_train.fit.attention_of", lambda *_, **__: FLASH)
    train(train_config(**settings), callbacks=[Ends(named)])
    assert named == [FLASH, "begin", "end", "sdpa"]
    assert furthest_apart(tmp_path / "run", tmp_path / "sdpa") == 0


@pytest.mark.parametrize(("asked", "found"), [("sdpa", "sdpa"), (FLASH, FLASH)])
@pytest.mark.parametrize("kind", ["deberta-v2", "mpnet"])
def test_an_architecture_that_keeps_its_own_way_is_said(train_config, tmp_path, monkeypatch, kind, asked, found):
    folder, tokenizer = tmp_path / kind, make_tokenizer()
    sizes = {**SMALL, **MORE[kind], "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr("burnish_train.fit.attention_of", lambda *_, **__: found)
    with pytest.raises(InputError, match=rf"{asked} is not for this model: \w+ computes attention by eager alone"):
        train(train_config(model=str(folder), attn_implementation=asked))
    monkeypatch.setattr("burnish_train.fit.attention_of", attention_of)
    train(train_config(model=str(folder), num_train_epochs=0.5))


def test_a_model_that_does_not_go_with_it_is_said(train_config, monkeypatch):
    def refuse(self, name, **_):
        raise ValueError("BertModel does not support Flash Attention 2 yet.\nSee an issue.")

    monkeypatch.setattr(transformers.PreTrainedModel, "set_attn_implementation", refuse)
    monkeypatch.setattr("burnish_train.fit.attention_of", lambda *_, **__: FLASH)
    with pytest.raises(InputError, match=r"is not for this model: BertModel does not support Flash Attention 2 yet\.$"):
        train(train_config())
    assert not train_config().out.with_name("run.partial").exists()
