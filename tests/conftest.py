"""What tests of several rooms share: the tiny bundle, a copy of it to damage, and the command as people run it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from burnish_serve import Manifest, Runner, load
from burnish_serve.bundle import MANIFEST

# How long an example takes depends on what else the machine does.
settings.register_profile("burnish", deadline=None, max_examples=60)
settings.load_profile("burnish")

# A suite that runs in the background (nohup, some CI) is deaf to Ctrl-C, and so would be the commands that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """Return the committed bundle; not to be written to."""
    return Path(__file__).parent / "tiny_bundle"


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle) -> Runner:
    """Return a runner of the tiny bundle's float32 variant."""
    return load(tiny_bundle, variant="fp32", device="cpu", threads=1)


@pytest.fixture
def bundle_copy(tiny_bundle, tmp_path) -> Path:
    """Return a copy of the tiny bundle that may be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def edit_manifest():
    """Return a function that changes keys of a bundle's manifest and writes it again, with the right hash."""

    def edit(folder: Path, **changes) -> None:
        path = folder / MANIFEST
        path.write_bytes(dataclasses.replace(Manifest.from_bytes(path.read_bytes()), **changes).to_bytes())

    return edit


@pytest.fixture(scope="session")
def command() -> str:
    """Return the console script that stands beside this Python."""
    return str(Path(sys.executable).with_name("burnish"))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return the variables of a command in its own process: nothing is downloaded."""
    return {**{k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def run_burnish(command, environment):
    """Return a function that runs the command in its own process: ``run_burnish("inspect", bundle)``."""

    def run(*arguments: object, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *map(str, arguments)],
            env={**environment, **(env or {})},
            **{"capture_output": True, "encoding": "utf-8", "timeout": 120, **options},
        )

    return run


# What train and export need: a tiny encoder, rows, a checkpoint of each pooling, and their bundles (tiny_model.py).
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported


@pytest.fixture
def one_thread():
    """Keep PyTorch and ONNX Runtime to one thread, for speed and for the same sums each time."""
    from tiny_model import on_one_thread

    with on_one_thread():
        yield


@pytest.fixture
def at_any_speed():
    """Let int8 be the default however fast it is: on a tiny model its time is noise."""
    from tiny_model import any_speed

    with any_speed():
        yield


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """Return the folder of a pretrained encoder of a few kilobytes; not to be written to."""
    from tiny_model import make_encoder

    return make_encoder(tmp_path_factory.mktemp("encoder") / "tiny-encoder")


@pytest.fixture(params=["first", "mean"])
def model(request, tiny_encoder):
    """Return an untrained tiny model with the architecture's own head, or with ours."""
    import transformers

    from burnish_train.heads import PooledClassifier

    config = transformers.AutoConfig.from_pretrained(tiny_encoder, num_labels=3)
    if request.param == "first":
        return transformers.AutoModelForSequenceClassification.from_pretrained(tiny_encoder, config=config)
    return PooledClassifier(transformers.AutoModel.from_pretrained(tiny_encoder, config=config), 3, "mean")


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory) -> Path:
    """Return a folder with ``train.jsonl`` (120 rows) and ``test.jsonl`` (60 rows); not to be written to."""
    from tiny_model import labelled_rows, write_rows

    folder = tmp_path_factory.mktemp("rows")
    rows = labelled_rows(180)
    write_rows(folder / "train.jsonl", rows[:120])
    write_rows(folder / "test.jsonl", rows[120:])
    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny_encoder, tiny_rows) -> dict:
    """Return the settings of `TrainConfig` with which the tiny encoder learns in a second; ``out`` is left to give."""
    return {
        "model": str(tiny_encoder),
        "train": str(tiny_rows / "train.jsonl"),
        "test": str(tiny_rows / "test.jsonl"),
        "num_train_epochs": 6.0,
        "learning_rate": 2e-3,
        "early_stopping_patience": 0,
        "per_device_train_batch_size": 8,
        "max_length": 16,
        "device": "cpu",
        "precision": "fp32",
    }


@pytest.fixture
def train_config(tiny_settings, tmp_path):
    """Return a function that makes the tiny run's settings, with some changed."""
    from burnish_train import TrainConfig

    return lambda **changes: TrainConfig(**{**tiny_settings, "out": tmp_path / "run", **changes})


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory, tiny_settings):
    """Return a function that trains the tiny encoder with some settings changed, once a session for each."""
    made = {}

    def make(**changes) -> Path:
        from burnish_train import TrainConfig, train
        from tiny_model import on_one_thread

        key = tuple(sorted(changes.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("checkpoint") / "intents"
            with on_one_thread():
                train(TrainConfig(**{**tiny_settings, "out": out, **changes}))
            made[key] = out
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint) -> Path:
    """Return a trained checkpoint with the architecture's own head; not to be written to."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def mean_checkpoint(make_checkpoint) -> Path:
    """Return a trained checkpoint that pools by the mean; not to be written to."""
    return make_checkpoint(pooling="mean")


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory):
    """Return a function that exports a checkpoint with some settings, once a session for each."""
    made = {}

    def make(checkpoint: Path, **settings) -> Path:
        from burnish_export import ExportConfig, export
        from tiny_model import any_speed, on_one_thread

        key = (checkpoint, *sorted(settings.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("export") / "bundle"
            with on_one_thread(), any_speed():
                export(ExportConfig(checkpoint=str(checkpoint), out=out, **{"seconds": 0.01, **settings}))
            made[key] = out
        return made[key]

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle, tiny_checkpoint) -> Path:
    """Return the bundle of the checkpoint with the architecture's own head; not to be written to."""
    return make_bundle(tiny_checkpoint)


@pytest.fixture(scope="session")
def bag(tmp_path_factory):
    """Return a function that makes a runner of a bag of words for a task (bag.py)."""
    from bag import make_bag, save_tokenizer

    tokenizer = save_tokenizer(tmp_path_factory.mktemp("bag"))
    return lambda *task, **changes: make_bag(tokenizer, *task, **changes)


@pytest.fixture
def export_config(tiny_checkpoint, tmp_path):
    """Return a function that makes the settings of an export of the tiny checkpoint, with some changed."""
    from burnish_export import ExportConfig

    return lambda **changes: ExportConfig(
        **{"checkpoint": str(tiny_checkpoint), "out": tmp_path / "out" / "bundle", "seconds": 0.01, **changes}
    )


@pytest.fixture
def made_before(monkeypatch, bundle):
    """Take the tiny checkpoint's graph from its bundle, for tests of what comes after it: exporting takes seconds."""
    from burnish_export import graph

    def to_onnx(network, path):
        shutil.copy(bundle / "onnx" / "model.onnx", path)

    monkeypatch.setattr(graph, "to_onnx", to_onnx)


@pytest.fixture(scope="session")
def data():
    """Return the folder of labelled data that the long rows read."""
    folder = Path(os.environ.get("BURNISH_DATA") or "no data")
    if not folder.is_dir():
        pytest.skip("needs labelled data: make accept DATA=folder")
    return folder


@pytest.fixture(scope="session")
def banking77(data) -> Path:
    """Return the folder of banking77's rows, where there is one."""
    if not (data / "banking77").is_dir():
        pytest.skip("needs banking77 in the labelled data: make accept DATA=folder")
    return data / "banking77"


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return the folder that the long rows train and export into."""
    return Path(os.environ.get("BURNISH_RUNS") or tmp_path_factory.mktemp("runs"))
