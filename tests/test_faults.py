"""What ends a training run in its middle: a loss that is no number, no more memory, a disk that fills up."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer

from burnish_serve.cli import main
from burnish_serve.errors import BurnishError
from burnish_train import TrainConfig, checkpoint, faults, train
from burnish_train.faults import FiniteLoss, texts_of
from burnish_train.trainer import TaskTrainer
from tiny_model import write_rows
from tiny_tasks import WAYS
from training import furthest_apart, record_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 84


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that makes something happen to the loss of one step; it returns the batches of all steps."""

    def plant(step: int, fault):
        batches = []
        compute = TaskTrainer.compute_loss

        def compute_loss(self, model, inputs, **rest):
            loss = compute(self, model, inputs, **rest)
            if not model.training:
                return loss
            batches.append(inputs["input_ids"])
            return fault(loss) if self.state.global_step + 1 == step else loss

        monkeypatch.setattr(TaskTrainer, "compute_loss", compute_loss)
        return batches

    return plant


def raises(error: BaseException):
    def fault(loss):
        raise error

    return fault


def checkpoints(work: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in work.glob("checkpoint-*"))


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_the_run_with_step_and_rows(train_config, at_step, tmp_path, number):
    batches = at_step(18, lambda loss: loss * float(number))
    config = train_config(save_steps=5)
    with pytest.raises(BurnishError) as caught:
        train(config)
    said = str(caught.value)
    work = tmp_path / "run.partial"
    assert len(batches) == 18, "it went on"
    assert checkpoints(work)[-1] == 15
    assert said.startswith(
        f"the loss is {number} at step 18 of 84; try a lower --learning-rate (it is 0.002) or a smaller "
        f"--max-grad-norm (it is 1), with --overwrite to start again; {work}/checkpoint-15 is the last good "
        f"checkpoint, and --resume with the same settings would come to the same; the rows of that step: "
    )
    texts = re.findall(r"'([^']*)'", said)
    rows = rows_of(Path(config.train))
    assert len(texts) == len(set(texts)) == 8
    assert set(texts) <= {row["text"] for row in rows}
    tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    read = [[number for number in line if number] for line in batches[-1].tolist()]
    assert sorted(tokenizer.encode(text).ids for text in texts) == sorted(read), "the rows of another batch"


def test_a_gradient_that_is_no_number_ends_the_run_in_the_same_step(train_config, at_step, tmp_path):
    def spoil(loss):  # its gradient is not finite, and it is
        return loss + torch.sqrt((loss * 0) ** 2)

    batches = at_step(12, spoil)
    with pytest.raises(
        BurnishError, match=r"the length of the gradient is nan at step 12 of 84; .*rows of that step: '"
    ):
        train(train_config(save_steps=3))
    assert len(batches) == 12
    assert checkpoints(tmp_path / "run.partial")[-1] == 9, "weights that are no numbers were saved"


def test_the_command_says_it_in_one_sentence_and_the_checkpoint_is_good(
    tiny_settings, at_step, tmp_path, tiny_checkpoint, monkeypatch
):
    flags = [part for key, value in tiny_settings.items() for part in ("--" + key.replace("_", "-"), str(value))]
    line = ["train", *flags, "--out", str(tmp_path / "run"), "--save-steps", "7"]
    at_step(33, lambda loss: loss * float("nan"))
    result = CliRunner().invoke(main, [*line, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["exit_status"] == 1
    assert result.stderr.splitlines()[-1].startswith("burnish: the loss is nan at step 33 of 84; try")
    assert "Traceback" not in result.stderr
    again = CliRunner().invoke(main, [*line, "--resume"])
    assert "burnish: the loss is nan at step 33 of 84" in again.stderr, "as was said"
    monkeypatch.undo()
    done = CliRunner().invoke(main, [*line, "--resume"])
    assert done.exit_code == 0, done.output
    assert furthest_apart(tmp_path / "run", tiny_checkpoint) < 1e-5


def test_losses_of_a_gpu_are_looked_at_where_it_is_waited_for_anyway(tmp_path):
    looked = FiniteLoss(lambda ids: [f"row {number}" for number in ids.flatten().tolist()])
    told = {"learning_rate": 1e-3, "max_grad_norm": 1.0, "bf16": True, "fp16": False, "output_dir": str(tmp_path)}
    args, state = type("Args", (), told), type("State", (), {"max_steps": 9})
    control = type("Control", (), {"should_log": False, "should_save": False, "should_evaluate": False})
    for step in range(1, 6):
        loss = torch.tensor(float("nan") if step > 3 else 1.0)
        looked.watch(step, "loss", torch.tensor(1.0), torch.tensor([[10 * step]]))  # another batch of the step
        looked.watch(step, "loss", loss, torch.tensor([[step]]))
    held, looked._seen = looked._seen, [(1, "loss", torch.empty((), device="meta"), None)]
    looked.on_step_end(args, state, control)
    assert len(looked._seen) == 1, "it was looked at, and waited for"
    looked._seen = held
    control.should_save = True
    with pytest.raises(
        BurnishError, match=r"the loss is nan at step 4 of 9; .*, --precision fp32 or .* step: 'row 4'$"
    ):
        looked.on_step_end(args, state, control)
    assert looked._seen == []


def test_long_texts_and_many_rows_are_cut(tmp_path):
    looked = FiniteLoss(lambda ids: [f"{number} {'x' * 200}" for number in range(40)])
    told = {"learning_rate": 1e-3, "max_grad_norm": 1.0, "bf16": False, "fp16": False, "output_dir": str(tmp_path)}
    looked.watch(1, "loss", torch.tensor(float("inf")), torch.zeros(1, 1))
    with pytest.raises(BurnishError) as caught:
        looked.on_epoch_end(type("Args", (), told), type("State", (), {"max_steps": 9}), None)
    rows = str(caught.value).partition("the rows of that step: ")[2]
    assert [len(row) for row in re.findall(r"'([^']*)'", rows)] == [80] * 32
    assert rows.endswith(" and 8 more")
    assert "there is no checkpoint yet" in str(caught.value)


@pytest.mark.parametrize("task", ["feature-extraction", "fill-mask"])
def test_rows_are_found_whatever_a_batch_is_made_of(task, tiny_settings, tmp_path, at_step, monkeypatch):
    way = WAYS[task]
    files = {part: str(write_rows(tmp_path / f"{part}.jsonl", way.rows(24, 0))) for part in ("train", "dev")}
    settings = {**tiny_settings, "test": None, "max_length": 32, **way.settings, **files, "task": way.task}
    seen = []

    def texts(ids, runner, rows):
        seen.append((texts_of(ids, runner, rows), {" / ".join(row.texts) for row in rows}))
        return seen[0][0]

    monkeypatch.setattr("burnish_train.trainer.texts_of", texts)
    at_step(2, lambda loss: loss * float("nan"))
    with pytest.raises(BurnishError, match="at step 2 of"):
        train(TrainConfig(**{**settings, "num_train_epochs": 1.0, "out": tmp_path / "run"}))
    ((found, known),) = seen
    assert found
    assert set(found) <= known


def test_a_window_of_many_texts_is_told_by_its_words(tiny_checkpoint):
    runner = checkpoint.load(tiny_checkpoint, device="cpu")
    (asked,) = runner.encode(["wake me"])
    ids = torch.tensor([[*asked.windows[0].ids.tolist(), 0, 0]])
    assert texts_of(ids, runner, []) == ["wake me"]


REAL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
    MemoryError(),
)


def test_no_more_memory_says_what_to_lower_and_where_it_goes_on(train_config, at_step, tmp_path, monkeypatch):
    config = train_config(save_steps=5, num_train_epochs=1.0)
    at_step(7, raises(REAL[0]))
    with pytest.raises(BurnishError) as caught:
        train(config)
    monkeypatch.undo()
    saved = tmp_path / "run.partial" / "checkpoint-5"
    assert str(caught.value) == (
        "out of memory: lower --per-device-train-batch-size from 8 to 4 (with --gradient-accumulation-steps 2 a step "
        "learns from as many rows), or lower --max-length (it is 16), or give --gradient-checkpointing, and "
        "--overwrite to start again with that; where the memory was taken by others, the same command with --resume "
        f"goes on from {saved}"
    )
    for error in REAL:
        assert str(faults.explained(error, config, tmp_path, str(saved))) == str(caught.value)
    told = []
    train(config, resume=True, log=told.append)
    assert f"going on from {saved}" in told


def test_memory_that_pytorch_itself_has_not(train_config, at_step):
    at_step(1, lambda loss: torch.empty(2**52, dtype=torch.uint8))
    with pytest.raises(BurnishError, match=r"^out of memory: lower --max-length .* goes on from the start$"):
        train(train_config(per_device_train_batch_size=1, num_train_epochs=0.1))


def test_other_errors_are_not_taken_for_it(tmp_path, train_config):
    for error in (RuntimeError("shapes do not go together"), ValueError("x"), OSError(errno.EACCES, "no")):
        assert faults.explained(error, train_config(), tmp_path, None) is None


# A disk that fills up


def test_a_checkpoint_cut_off_by_a_full_disk_is_not_named_and_makes_room(train_config, tmp_path, monkeypatch):
    save = torch.save

    def full(thing, path, *rest, **options):
        if "checkpoint-20" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(thing, path, *rest, **options)

    work = tmp_path / "run.partial"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(BurnishError, match=rf"is full; make room, .* goes on from {work}/checkpoint-15$"):
            train(train_config(save_steps=5, num_train_epochs=2.0))
    assert checkpoints(work) == [14, 15], "what was cut off takes room"
    told = []
    train(train_config(save_steps=5, num_train_epochs=2.0), resume=True, log=told.append)
    assert f"going on from {work}/checkpoint-15" in told


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a disk of so many bytes; only who may mount can see how a real one fills up."""
    mounted = []

    def mount(size: int) -> Path:
        place = tmp_path / "disk"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def size_of(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("room", [0.1, 0.9])
def test_a_disk_that_fills_up_in_the_middle_of_a_checkpoint(train_config, small_disk, tmp_path, monkeypatch, room):
    """With room for one checkpoint and a part of the second, the first stays, and the run goes on from it."""
    measured = []
    save = TaskTrainer._save_checkpoint

    def measure(self, *rest):
        save(self, *rest)
        measured.append(size_of(Path(self.args.output_dir)))

    with monkeypatch.context() as patch:
        patch.setattr(TaskTrainer, "_save_checkpoint", measure)
        train(train_config(num_train_epochs=2.0, out=tmp_path / "measured"))
    one = measured[1] - measured[0]
    disk = small_disk(int(measured[0] + room * one) // 4096 * 4096)
    settings = train_config(num_train_epochs=2.0, out=disk / "run")
    work = disk / "run.partial"
    with pytest.raises(BurnishError, match=rf"^the disk of {work} is full; make room, .* from {work}/checkpoint-14$"):
        train(settings)
    assert checkpoints(work) == [14]
    filler = disk / "filler"
    with contextlib.suppress(OSError):
        filler.write_bytes(b"x" * 2**24)
    with pytest.raises((BurnishError, OSError)):
        train(settings, resume=True)
    assert checkpoints(work) == [14], "a try on the full disk does no harm"
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    told = []
    train(settings, resume=True, log=told.append)
    assert f"going on from {work}/checkpoint-14" in told
    assert furthest_apart(disk / "run", tmp_path / "measured") < 1e-6
    assert record_of(disk / "run")["metrics"] == record_of(tmp_path / "measured")["metrics"]
