"""The autopilot: what it tries, what it takes, and why; first on figures made up here, then on the tiny checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from burnish_export import ExportConfig, export
from burnish_export.autopilot import Candidate, Outcome, rank, times_faster
from burnish_export.choose import WORTH
from burnish_export.quantize import Recipe
from burnish_serve import load
from burnish_serve.bundle import open_bundle

SLOW = Recipe(kept=("layer.0",))  # a graph of another form


def candidate(name: str, *, recipe: Recipe | None = Recipe(), **changes) -> Candidate:  # noqa: B008 (it is frozen)
    figures = {"size": 100, "score": 0.9, "error": 0.01, "label_changes": 0, "latency_ms": 1.0, "texts_per_second": 500}
    return Candidate(name=name, recipe=recipe, **{**figures, **changes})


def outcome(*candidates: Candidate, reference: float | None = 0.9) -> Outcome:
    fp32 = candidate("float32", recipe=None, latency_ms=2.0, texts_per_second=200, size=400, error=0.0)
    return Outcome(rows=100, reference=reference, candidates=(fp32, *candidates), sensitivity={})


@pytest.mark.parametrize(
    ("changes", "others", "wanted"),
    [
        ({"latency_ms": 0.9}, {"recipe": SLOW}, "this"),
        ({"latency_ms": 0.97}, {"recipe": SLOW, "error": 0.001}, "other"),
        ({"latency_ms": 0.9, "score": 0.894}, {"recipe": SLOW}, "other"),
        ({"latency_ms": 0.9, "score": 0.8951}, {"recipe": SLOW}, "this"),
        ({"texts_per_second": 560}, {"recipe": SLOW, "error": 0.001}, "this"),
        ({"texts_per_second": 520}, {"recipe": SLOW, "error": 0.001}, "other"),
        ({"latency_ms": 0.8}, {"error": 0.001}, "other"),
        ({"size": 60}, {"error": 0.001}, "this"),
        ({"size": 98}, {"error": 0.001}, "other"),
        ({"error": 0.001}, {}, "this"),
        ({"latency_ms": 1.5, "score": 0.99, "recipe": SLOW}, {}, "other"),
    ],
    ids=[
        *["faster", "noise", "too much lost", "little lost", "faster in batches", "noise in batches", "of one form"],
        *["smaller", "as small", "closer", "score is no aim"],
    ],
)
def test_the_fastest_inside_the_budget_is_taken(changes, others, wanted):
    ranked = rank(outcome(candidate("this", **changes), candidate("other", **others)), max_drop=0.005)
    assert ranked[0].name == wanted


def test_what_loses_too_much_depends_on_its_neighbours_or_is_float32_is_never_taken():
    dynamic = candidate("dynamic", recipe=None, latency_ms=0.1)
    assert rank(outcome(candidate("bad", score=0.89), dynamic), max_drop=0.005) == []
    assert [one.name for one in rank(outcome(candidate("good"), dynamic), max_drop=0.005)] == ["good"]


def test_without_labels_all_are_inside_and_the_closest_is_known():
    far, near = candidate("far", score=None, error=0.5), candidate("near", score=None, error=0.1)
    found = outcome(far, near, reference=None)
    assert [one.name for one in rank(found, max_drop=0.0)] == ["near", "far"]
    assert found.closest is near


def test_speed_is_the_better_of_alone_and_in_batches():
    fp32 = candidate("float32", latency_ms=2.0, texts_per_second=200)
    assert times_faster(candidate("a", latency_ms=1.0, texts_per_second=210), fp32) == pytest.approx(2.0)
    assert times_faster(candidate("b", latency_ms=1.9, texts_per_second=600), fp32) == pytest.approx(3.0)


# On a real search

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def told(make_bundle, tiny_checkpoint):
    """Return what the manifest of the tiny checkpoint's bundle tells of its search."""
    return open_bundle(make_bundle(tiny_checkpoint)).manifest.provenance["autopilot"]


def test_the_path_has_eight_candidates_with_score_and_latency(told):
    names = [one["name"] for one in told["candidates"]]
    assert len(set(names)) == len(names) >= 8
    assert names[0] == "float32"
    assert {"minmax", "percentile", "entropy", "dynamic"} < set(names)
    assert any("7 bits" in name for name in names)
    assert any("smoothed" in name for name in names)
    assert any("float32 embeddings" in name for name in names)
    assert sum("in float32" in name for name in names) >= 2
    for one in told["candidates"]:
        assert 0 <= one["score"] <= 1
        assert one["latency_ms"] > 0 < one["texts_per_second"]
        assert one["size"] > 0
        assert one["error"] >= 0
    assert told["chosen"] in names
    assert told["rows"] == 12


def test_every_module_was_tried_alone(told):
    layer = "bert.encoder.layer.0."
    parts = ("attention.self.{query,key,value}", "attention.output.dense", "intermediate.dense", "output.dense")
    assert {one["module"] for one in told["sensitivity"]} >= {"embeddings", *(layer + part for part in parts)}
    errors = [one["error"] for one in told["sensitivity"]]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0


def test_the_card_shows_the_path(make_bundle, tiny_checkpoint, told):
    folder = make_bundle(tiny_checkpoint)
    text = (folder / "README.md").read_text(encoding="utf-8")
    section = text.partition("## What was tried")[2].partition("## Limits")[0]
    rows = re.findall(r"^\| (.+?) \| [01]\.\d{4} \| ", section, flags=re.MULTILINE)
    assert [name.strip("*") for name in rows] == [one["name"] for one in told["candidates"]]
    assert f"**{told['chosen']}**" in rows
    assert "![accuracy](frontier.png)" in section
    with Image.open(folder / "frontier.png") as picture:
        assert picture.size[0] > 500 < picture.size[1] * 2
    assert "frontier.png" in open_bundle(folder).manifest.files


@pytest.fixture(scope="session")
def uneven_checkpoint(tiny_checkpoint, tmp_path_factory) -> Path:
    """Return the tiny checkpoint with a channel of one layer's values 65,536 times as large, and taken back behind it.

    In float32 nothing changes; one range for all channels cannot hold it.
    """
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("uneven") / "checkpoint"))
    weights = load_file(folder / "model.safetensors")
    layer = "bert.encoder.layer.0.attention."
    for name in ("self.value.weight", "self.value.bias"):
        weights[layer + name][0] *= 2.0**16
    weights[f"{layer}output.dense.weight"][:, 0] /= 2.0**16
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def test_the_module_that_suffers_is_found_and_helped(make_bundle, uneven_checkpoint):
    told = open_bundle(make_bundle(uneven_checkpoint)).manifest.provenance["autopilot"]
    worst = told["sensitivity"][0]
    assert worst["module"] == "bert.encoder.layer.0.attention.output.dense"
    errors = {one["name"]: one["error"] for one in told["candidates"]}
    best = min(errors[method] for method in ("minmax", "percentile", "entropy"))
    (smooth,) = (error for name, error in errors.items() if name.endswith(", smoothed"))
    assert smooth < best / 2
    (one_kept,) = (error for name, error in errors.items() if name.endswith(", 1 in float32"))
    assert one_kept < best


def slow(seconds_of_fp32):
    """Return a stand-in for `interleave` in which everything takes as long as float32, or a share of it."""

    def interleave(calls, **_):
        return {name: torch.full((5, 1), 1.0 if name == "float32" else seconds_of_fp32).numpy() for name in calls}

    return interleave


@pytest.mark.parametrize(("share", "default"), [(1 / 1.19, "fp32"), (1 / 1.21, "int8")])
def test_int8_that_is_hardly_faster_is_not_the_default(tiny_checkpoint, tmp_path, monkeypatch, share, default):
    assert WORTH == 1.2
    monkeypatch.setattr("burnish_export.autopilot.interleave", slow(share))
    manifest = export(ExportConfig(checkpoint=str(tiny_checkpoint), out=tmp_path / "bundle", max_drop=1.0))
    assert manifest.defaults["CPUExecutionProvider"][0] == default
    because = manifest.provenance["default_because"]
    assert f"{1 / share:.2f} times as fast as float32 here" in because
    assert ("not worth" in because) == (default == "fp32")
    assert load(tmp_path / "bundle", device="cpu").variant == default
    assert because in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))["warnings"] == []


def test_what_was_demanded_is_taken_however_fast_it_is(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("burnish_export.autopilot.interleave", slow(2.0))
    settings = {"checkpoint": str(tiny_checkpoint), "out": tmp_path / "bundle", "precision": "int8", "max_drop": 1.0}
    assert export(ExportConfig(**settings)).defaults["CPUExecutionProvider"][0] == "int8"
