"""The manifest of a bundle, from what the export found: the only writer of the contract in `burnish_serve.bundle`.

>>> make_manifest(config, source, rows, made, wanted, 0.93, "int8", "as asked for", []).task  # doctest: +SKIP
'text-classification'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish_export import graph
from burnish_export.config import ExportConfig
from burnish_export.evidence import Evidence, Made
from burnish_export.source import Source, architecture
from burnish_serve import machine
from burnish_serve.bundle import Manifest, Variant
from burnish_serve.session import PROVIDERS
from burnish_serve.tasks import Logits

FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_int8.onnx", "int8-dynamic": "onnx/model_int8_dynamic.onnx"}
# How far a replayed logit may be off on another processor, as a share of the largest: rounding in another order,
# and for integers a value that falls on the other side of a step.
GOLDEN_TOLERANCE = {"fp32": 1e-4, "int8": 0.05, "int8-dynamic": 0.05}
INT8_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def make_manifest(
    config: ExportConfig,
    source: Source,
    rows: Evidence,
    made: dict[str, Made],
    wanted: Logits,
    reference_score: float | None,
    default: str,
    reason: str,
    warnings: Sequence[str],
) -> Manifest:
    """Return the manifest without its files, which are not all written yet."""
    variants = {}
    for name, result in made.items():
        golden = result.runner.logits(rows.golden)
        variants[name] = Variant(
            file=FILES[name],
            precision=name,
            batch_invariant=result.batch_invariant,
            providers=tuple(PROVIDERS.values()) if name == "fp32" else (PROVIDERS["cpu"],),
            right_with=(),
            fast_with=() if name == "fp32" else INT8_FEATURES,
            max_difference=result.proof.max_difference,
            label_changes=int((result.logits.argmax(-1) != wanted.argmax(-1)).sum()),
            score=result.score,
            golden_outputs=tuple(tuple(float(value) for value in row) for row in golden),
            golden_tolerance=GOLDEN_TOLERANCE[name] * max(1.0, float(np.abs(golden).max())),
        )
    packages = ("burnish", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "optimum")
    return Manifest(
        task=source.task.name,
        labels=source.labels,
        problem_type=source.problem_type,
        max_length=source.max_length,
        pad_token_id=source.tokenizer.pad_token_id or 0,
        inputs=source.inputs,
        outputs=source.task.outputs,
        variants=variants,
        defaults={PROVIDERS["cpu"]: (default,), PROVIDERS["cuda"]: ("fp32",)},
        files={},
        golden_rows=rows.golden,
        reference_score=reference_score,
        evaluation_rows=len(rows.labelled),
        warnings=tuple(warnings),
        provenance={
            "base_model": Path(source.record.get("base_model", config.checkpoint)).name,
            "seed": source.record.get("seed"),
            "data": {split: _without_path(about) for split, about in source.record.get("data", {}).items()},
            "architecture": architecture(source.config),
            "pooling": source.record.get("pooling", "first"),
            "opset": graph.OPSET,
            "precision": config.precision,
            "max_drop": config.max_drop,
            "default_because": reason,
            "proof": {
                name: {"shapes": [list(pair) for pair in result.proof.shapes], "scale": result.proof.scale}
                for name, result in made.items()
            },
            "machine": machine.description(),
            "versions": {name: machine.version(name) for name in packages},
        },
    )


def _without_path(about: dict[str, Any]) -> dict[str, Any]:
    return {key: Path(value).name if key == "source" else value for key, value in about.items()}
