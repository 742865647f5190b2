"""What an export takes and what it does not, and what it leaves behind when it fails."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from burnish_export import ExportConfig, card, export, proof, quantize
from burnish_export.cli import export as command_export
from burnish_export.variants import FILES
from burnish_serve import load
from burnish_serve.bundle import open_bundle
from burnish_serve.errors import InputError, ProofError
from exporting import ROWS, TEXTS, in_transformers, nothing_left
from tiny_model import make_classifier, make_encoder, write_rows

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """Return a checkpoint as transformers alone writes it."""
    return make_classifier(tmp_path_factory.mktemp("foreign") / "model", spread=0.2)


def test_any_checkpoint_of_transformers_is_taken_with_its_task(foreign, tmp_path):
    with pytest.raises(InputError, match=r"model has no burnish.json.*: give --task \(such as text-classification\)"):
        export(ExportConfig(checkpoint=str(foreign), out=tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []
    calibrate = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    settings = {"task": "text-classification", "calibrate": calibrate, "seconds": 0.01}
    manifest = export(ExportConfig(checkpoint=str(foreign), out=tmp_path / "bundle", **settings))
    wanted = in_transformers(foreign, TEXTS, 32)
    got = load(tmp_path / "bundle", variant="fp32", device="cpu").logits(TEXTS)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert manifest.max_length == 32
    assert manifest.defaults["CPUExecutionProvider"] == ("fp32",), "nothing shows what int8 costs"


def test_a_max_length_of_the_users_is_kept_up_to_what_the_model_reads(export_config, made_before):
    assert export(export_config(max_length=9)).max_length == 9
    assert load(export_config().out, device="cpu").encode(["now " * 20])[0].truncated
    assert export(export_config(max_length=512), overwrite=True).max_length == 32


@pytest.mark.parametrize(
    "kind", ["missing", "file", "empty", "no export_config", "words", "cut weights", "encoder", "no head"]
)
def test_what_is_no_checkpoint_is_one_sentence_and_nothing_is_left(tiny_checkpoint, mean_checkpoint, tmp_path, kind):
    folder, task = tmp_path / "given", None
    if kind == "file":
        folder.write_text("no folder", encoding="utf-8")
    elif kind == "empty":
        folder.mkdir()
    elif kind == "encoder":
        folder, task = make_encoder(folder), "text-classification"
    elif kind != "missing":
        shutil.copytree(mean_checkpoint if kind == "no head" else tiny_checkpoint, folder)
        if kind in {"no export_config", "no head"}:
            (folder / {"no export_config": "config.json", "no head": "head.safetensors"}[kind]).unlink()
        else:
            path = folder / {"words": "burnish.json", "cut weights": "model.safetensors"}[kind]
            path.write_bytes(path.read_bytes()[:200])
    said = {
        "missing": "no such",
        "file": "is not a checkpoint: it has no config.json",
        "empty": "is not a checkpoint: it has no config.json",
        "no export_config": "is not a checkpoint: it has no config.json",
        "words": "burnish.json is damaged: it is not JSON",
        "cut weights": "cannot load the checkpoint",
        "encoder": r"has no head for text-classification \(it is a BertModel\)",
        "no head": "cannot load the checkpoint",
    }
    with pytest.raises(InputError, match=f"given.*{said[kind]}|{said[kind]}.*given") as caught:
        export(ExportConfig(checkpoint=str(folder), out=tmp_path / "bundle", task=task))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"given"}


def test_what_stands_at_out_is_not_touched_unless_asked(export_config, made_before, bundle, monkeypatch):
    shutil.copytree(bundle, export_config().out)
    with pytest.raises(InputError, match="bundle exists already; give another --out, or --overwrite to replace it"):
        export(export_config())
    with monkeypatch.context() as patch:
        patch.setattr(proof, "TOLERANCE", 0.0)
        with pytest.raises(ProofError):
            export(export_config(), overwrite=True)
    assert set(open_bundle(export_config().out).manifest.variants) == {"fp32", "int8", "int8-7bit"}
    export(export_config(precision="fp32"), overwrite=True)
    assert set(open_bundle(export_config().out).manifest.variants) == {"fp32"}
    assert [path.name for path in export_config().out.parent.iterdir()] == ["bundle"]


def test_overwrite_does_not_empty_a_folder_that_is_no_bundle(export_config, made_before):
    export_config().out.mkdir(parents=True)
    (export_config().out / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"bundle .*not a bundle"):
        export(export_config(precision="fp32"), overwrite=True)
    assert (export_config().out / "thesis.txt").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()], ids=repr
)
@pytest.mark.parametrize("where", [(quantize, "quantize_static"), (card, "render")], ids=["graph", "card"])
def test_a_failed_export_leaves_nothing(export_config, made_before, monkeypatch, where, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*where, fail)
    with pytest.raises(type(error)):
        export(export_config())
    assert nothing_left(export_config())


def test_what_an_interrupted_export_left_is_swept_away(export_config, made_before):
    left = export_config().out.with_name("bundle.partial")
    (left / "onnx").mkdir(parents=True)
    (left / "stranger.txt").write_text("left behind", encoding="utf-8")
    export(export_config(precision="fp32"))
    assert [path.name for path in export_config().out.parent.iterdir()] == ["bundle"]
    assert "stranger.txt" not in open_bundle(export_config().out).manifest.files


def test_the_command_prints_one_json_object(export_config, made_before, tiny_checkpoint):
    out = str(export_config().out)
    result = CliRunner().invoke(
        command_export, [str(tiny_checkpoint), "--out", out, "--precision", "int8", "--seconds", "0.01", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["bundle"], told["task"], told["default"]) == (out, "text-classification", "int8")
    manifest = open_bundle(out).manifest
    for name, variant in manifest.variants.items():
        assert told["variants"][name]["score"] == variant.score
        assert told["variants"][name]["size"] == manifest.files[variant.file].size
    assert "fp32: largest difference from PyTorch" in result.stderr
    assert FILES["int8"] in manifest.files
