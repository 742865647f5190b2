"""A run with a method of training is interrupted, and goes on to the same end: the model must be made alike again."""

from __future__ import annotations

import pytest
import transformers

from burnish_train import train
from training import furthest_apart

pytestmark = pytest.mark.usefixtures("one_thread")


class Stop(transformers.TrainerCallback):
    """Ends a run in the middle."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 23:
            raise RuntimeError


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"lora_rank": 2, "lora_dropout": 0.1}, id="LoRA"),
        pytest.param({"keep_layers": 1, "keep_feed_forward": 0.5}, id="a small student"),
        pytest.param({"keep_heads": 0.5, "reinit_layers": 1, "ema_decay": 0.9}, id="fewer heads"),
        pytest.param({"reinit_layers": 1, "freeze_embeddings": True}, id="layers anew"),
        pytest.param({"unfreeze_every": 0.5, "layer_lr_decay": 0.8}, id="unfreezing"),
        pytest.param({"rdrop_alpha": 1.0, "optim": "adafactor", "lr_scheduler_type": "cyclic"}, id="R-Drop"),
        pytest.param({"lr_scheduler_type": "reduce_lr_on_plateau", "warmup_ratio": 0.3}, id="plateau"),
        pytest.param({"contrastive_steps": 5, "ema_decay": 0.9}, id="few rows"),
        pytest.param({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, id="accumulation"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointing"),
        pytest.param({"quantize_aware": 2.0, "ema_decay": 0.9, "dev_fraction": 0.0}, id="int8"),
        pytest.param({"distill_hidden": 1.0, "distill_attention": 1.0}, id="a teacher"),
    ],
)
def test_it_ends_with_the_same_weights(train_config, tmp_path, mean_checkpoint, monkeypatch, settings):
    monkeypatch.setattr("burnish_train.methods.narrow.MULTIPLE", 8)
    taught = {"teacher": (str(mean_checkpoint),)} if "distill_hidden" in settings else {}
    settings = {"pooling": "mean", "num_train_epochs": 3.0, "save_steps": 5, **settings, **taught}
    whole = train(train_config(**settings, out=tmp_path / "whole"))
    with pytest.raises(RuntimeError):
        train(train_config(**settings), callbacks=[Stop()])
    told = []
    resumed = train(train_config(**settings), resume=True, log=told.append)
    assert any("going on from" in line and line.endswith("checkpoint-20") for line in told)
    assert furthest_apart(tmp_path / "run", tmp_path / "whole") == 0
    assert resumed["metrics"] == whole["metrics"]
