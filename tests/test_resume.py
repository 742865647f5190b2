"""A run of training that is killed, interrupted or cut off, and goes on to the same end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from burnish_serve.errors import BurnishError, InputError
from burnish_serve.writing import write_text
from burnish_train import TrainConfig, result, train
from burnish_train.progress import StepBar
from burnish_train.work import SECONDS, seconds_of
from tiny_model import labelled_rows, write_rows
from training import furthest_apart, record_of

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS_OF_AN_EPOCH, STEPS = 14, 84  # 108 of 120 rows are left to train on, eight a step, six times


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
    assert furthest_apart(resumed, whole) == 0
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
    train_config, tiny_checkpoint, monkeypatch, step, save_steps, last
):
    work = interrupt(train_config(save_steps=save_steps), step)
    checkpoints = sorted(int(path.name.split("-")[1]) for path in work.glob("checkpoint-*"))
    assert (checkpoints or [None])[-1] == last
    told, done = [], []
    monkeypatch.setattr(
        StepBar, "on_step_begin", lambda self, args, state, control, **_: done.append(state.global_step)
    )
    train(train_config(save_steps=save_steps), resume=True, log=told.append)
    assert done == list(range(last or 0, STEPS)), "steps were done twice, or left out"
    assert any(f"going on from {work}/checkpoint-{last}" in line for line in told) is (last is not None)
    assert_same_run(train_config().out, tiny_checkpoint)


def test_a_run_that_stopped_between_an_epoch_and_its_score_loses_no_score(train_config, tiny_checkpoint, monkeypatch):
    settings = train_config(save_steps=7)

    def on_evaluate(self, args, state, control, **_):
        if state.global_step == 3 * STEPS_OF_AN_EPOCH:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepBar, "on_evaluate", on_evaluate)
        with pytest.raises(BurnishError, match="interrupted at step 42"):
            train(settings)
    train(settings, resume=True)
    assert_same_run(settings.out, tiny_checkpoint)


def test_a_run_that_failed_while_it_wrote_its_result_goes_on(train_config, tiny_checkpoint, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(result.curve, "draw", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises((OSError, BurnishError)):
            train(train_config())
    assert not train_config().out.exists()
    train(train_config(), resume=True)
    assert_same_run(train_config().out, tiny_checkpoint)


@pytest.mark.parametrize("cut", ["no state", "half a state"])
def test_a_checkpoint_that_was_cut_off_is_passed_over(train_config, tiny_checkpoint, cut):
    settings = train_config(save_steps=7)
    work = interrupt(settings, 32)
    broken = Path(shutil.copytree(work / "checkpoint-28", work / "checkpoint-31"))
    state = broken / "trainer_state.json"
    if cut == "no state":
        state.unlink()
    else:  # what a full disk leaves
        state.write_bytes(state.read_bytes()[:100])
    train(settings, resume=True)
    assert_same_run(settings.out, tiny_checkpoint)


def test_patience_counts_on_after_a_resume(train_config):
    settings = train_config(learning_rate=0.0, early_stopping_patience=2, test=None)
    interrupt(settings, 30)
    assert train(settings, resume=True)["steps"] == 3 * STEPS_OF_AN_EPOCH, "an uninterrupted run stops there"


def test_seconds_are_those_of_all_starts(train_config):
    settings = train_config(save_steps=5, num_train_epochs=2.0)
    began = time.perf_counter()
    work = interrupt(settings, 13)
    first = seconds_of(work)
    assert 0 < first < time.perf_counter() - began
    write_text(work / SECONDS, "1000.0")

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 23:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepBar, "on_step_end", on_step_end)
        with pytest.raises(BurnishError, match="interrupted at step 23"):
            train(settings, resume=True)
    second = seconds_of(work)
    assert 1000 < second < 1000 + time.perf_counter() - began
    whole = train(settings, resume=True)["seconds"]
    assert second < whole < 1000 + time.perf_counter() - began
    assert train(settings, overwrite=True)["seconds"] < 1000


def test_resume_with_other_settings_is_refused(train_config, tmp_path):
    work = interrupt(train_config(), 16)
    with pytest.raises(
        InputError, match=r"run\.partial was begun with other settings: seed was 42 and is 7, learning_rate was 0.002"
    ):
        train(train_config(learning_rate=0.1, seed=7), resume=True)
    with pytest.raises(InputError, match=r"run\.partial holds an unfinished run; --resume goes on with it"):
        train(train_config())
    assert (work / "checkpoint-14").exists()
    train(train_config(num_train_epochs=0.5), overwrite=True)
    assert record_of(tmp_path / "run")["steps"] == 7


def test_resume_on_other_rows_is_refused(train_config, tmp_path):
    path = write_rows(tmp_path / "a.jsonl", labelled_rows(120))
    interrupt(train_config(train=str(path)), 16)
    write_rows(path, labelled_rows(120, seed=3))
    with pytest.raises(InputError, match=r"run\.partial was begun with other"):
        train(train_config(train=str(path)), resume=True)


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


def test_control_c_in_training_keeps_the_last_checkpoint_and_resume_goes_on(
    start, train_config, tmp_path, tiny_checkpoint
):
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
    train(train_config(save_steps=2), resume=True)
    assert_same_run(out, tiny_checkpoint)
