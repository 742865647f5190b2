"""Float32, float16 and int8 of an export, and the gates on what they lose."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from burnish_export import export, graph, half, quantize
from burnish_serve import load
from burnish_serve.errors import InputError, ProofError, QualityGateError
from exporting import ROWS, TEXTS, nothing_left, swapped_labels
from tiny_model import write_rows

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")


def test_float32_alone(export_config, made_before):
    manifest = export(export_config(precision="fp32"))
    assert set(manifest.variants) == {"fp32"}
    assert set(manifest.defaults.values()) == {("fp32",)}
    assert load(export_config().out, device="cpu").variant == "fp32"


def test_dynamic_int8_says_that_an_answer_depends_on_its_neighbours(export_config, made_before, caplog):
    manifest = export(export_config(precision="int8-dynamic"))
    assert caplog.records == [], "notes of a library are not for the user"
    assert set(manifest.variants) == {"fp32", "int8-dynamic"}
    model = load(export_config().out, device="cpu")
    assert model.variant == "int8-dynamic"
    rows = [row.windows[0] for row in model.encode(TEXTS[:32])]
    alone = np.concatenate([model.run_batch([row]) for row in rows])
    assert np.abs(alone - model.run_batch(rows)).max() > 1e-4
    assert manifest.variants["int8-dynamic"].batch_invariant is False
    text = (export_config().out / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| int8-dynamic |")]
    assert "depend on what else is in the batch" in line


def test_float16_is_close_and_the_default_of_gpus(export_config, made_before, bundle):
    manifest = export(export_config(precision="fp16"))
    assert set(manifest.variants) == {"fp32", "fp16"}
    assert manifest.defaults == {"CPUExecutionProvider": ("fp32",), "CUDAExecutionProvider": ("fp16", "fp32")}
    half, whole = (load(export_config().out, variant=name, device="cpu").logits(TEXTS) for name in ("fp16", "fp32"))
    assert half.dtype == np.float32
    assert 1e-5 < np.abs(half - whole).max() < 0.02 * np.abs(whole).max()
    sizes = [manifest.files[manifest.variants[name].file].size for name in ("fp32", "fp16")]
    assert sizes[1] < 0.75 * sizes[0]


def test_a_float16_that_is_not_close_is_never_written(export_config, made_before, monkeypatch):
    honest = half.to_half

    def to_half(path, out):
        honest(path, out)
        model = onnx.load(out)
        swapped_labels(model)
        onnx.save(model, out)

    monkeypatch.setattr(half, "to_half", to_half)
    with pytest.raises(ProofError, match="fp16 does not answer as the model does"):
        export(export_config(precision="fp16"))
    assert nothing_left(export_config())


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "fp16"])
def test_weights_of_more_than_two_gigabytes_stand_in_a_file_beside_the_graph(export_config, monkeypatch, precision):
    monkeypatch.setattr(graph, "MAX_WEIGHTS", 20_000)  # so that a few kilobytes are too much
    manifest = export(export_config(precision=precision, max_drop=1.0))
    assert {"onnx/model.onnx", "onnx/model.onnx.data"} < set(manifest.files)
    assert manifest.files["onnx/model.onnx"].size < manifest.files["onnx/model.onnx.data"].size
    assert "tried" not in {path.name for path in export_config().out.iterdir()}
    for name in manifest.variants:
        model = load(export_config().out, variant=name, device="cpu")
        assert np.abs(model.logits(manifest.golden_rows) - manifest.variants[name].golden_outputs).max() < 1e-4


def test_int8_without_rows_to_calibrate_on(export_config, made_before, tiny_checkpoint, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "bare"))
    (folder / "calibration.jsonl").unlink()
    with pytest.raises(InputError, match=r"int8 needs rows to set its ranges: give --calibrate F"):
        export(export_config(checkpoint=str(folder), precision="int8"))
    assert nothing_left(export_config())
    manifest = export(export_config(checkpoint=str(folder)))
    assert set(manifest.variants) == {"fp32"}
    assert "no rows to calibrate" in manifest.warnings[0]
    assert manifest.warnings[0] in (export_config().out / "README.md").read_text(encoding="utf-8")


def test_without_labelled_rows_int8_is_made_and_float32_stays_the_default(
    export_config, made_before, tiny_checkpoint, tmp_path
):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "bare"))
    (folder / "dev.jsonl").write_bytes(b"")  # as training with --dev-fraction 0 leaves it
    manifest = export(export_config(checkpoint=str(folder)))
    assert set(manifest.variants) >= {"fp32", "int8"}
    assert manifest.defaults["CPUExecutionProvider"] == ("fp32",)
    assert "--eval" in manifest.provenance["default_because"]
    assert (manifest.reference_score, manifest.evaluation_rows) == (None, 0)


@pytest.fixture
def spoiled(monkeypatch):
    """Swap two labels in whatever static int8 is made, so that none is any good."""
    honest = quantize.quantize_static

    def quantize_static(path, observed, recipe, out):
        made = honest(path, observed, recipe, out)
        model = onnx.load(out)
        swapped_labels(model)
        onnx.save(model, out)
        return made

    monkeypatch.setattr(quantize, "quantize_static", quantize_static)


def test_an_int8_that_loses_too_much_is_refused_where_it_was_demanded(export_config, made_before, spoiled):
    with pytest.raises(QualityGateError, match=r"int8 scores 0\.\d+ and PyTorch .*at most 0.0 may be lost") as caught:
        export(export_config(precision="int8", max_drop=0.0))
    assert caught.value.exit_status == 3
    assert nothing_left(export_config())


def test_an_int8_that_loses_too_much_is_not_the_default(export_config, made_before, spoiled):
    manifest = export(export_config())
    assert manifest.defaults["CPUExecutionProvider"] == ("fp32",)
    assert manifest.variants["int8"].score < manifest.reference_score - 0.005
    assert manifest.variants["int8"].label_changes > 0
    assert "PyTorch" in manifest.provenance["default_because"]


def test_rows_given_by_flag_are_the_ones_that_are_used(export_config, made_before, tmp_path):
    rows = [{"sentence": row["text"], "kind": row["label"]} for row in ROWS]
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    manifest = export(export_config(eval=path, calibrate=path, text_column="sentence", label_column="kind"))
    assert manifest.evaluation_rows == len(ROWS)
    assert manifest.golden_rows[0] == {"text": ROWS[0]["text"]}
    wrong = str(write_rows(tmp_path / "wrong.jsonl", [{"text": "open the door", "label": "door"}]))
    with pytest.raises(
        InputError, match=r"wrong.jsonl:1: the label 'door' is unknown to the model; known are: 'alarm'"
    ):
        export(export_config(out=tmp_path / "other", eval=wrong))
    assert not (tmp_path / "other").exists()
