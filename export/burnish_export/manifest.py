"""The manifest of a bundle, from what the export found: the only writer of the contract in `burnish_serve.bundle`.

>>> make_manifest(config, workshop, made, decision, report, 0.93).task  # doctest: +SKIP
'text-classification'
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish_export import graph
from burnish_export.choose import Decision
from burnish_export.config import ExportConfig
from burnish_export.evidence import Made, Workshop
from burnish_export.fusion import Report
from burnish_export.source import architecture
from burnish_export.variants import KINDS
from burnish_serve import machine
from burnish_serve.bundle import Manifest, Variant, golden_values
from burnish_serve.session import PROVIDERS


def make_manifest(
    config: ExportConfig,
    workshop: Workshop,
    made: dict[str, Made],
    decision: Decision,
    report: Report,
    reference_score: float | None,
) -> Manifest:
    """Return the manifest without its files, which are not all written yet."""
    source, rows = workshop.source, workshop.evidence
    variants = {}
    for name, result in made.items():
        golden = golden_values(result.runner.logits(rows.golden))
        largest = max((abs(value) for row in golden for value in row), default=0.0)
        variants[name] = Variant(
            file=KINDS[name].file,
            precision=name,
            batch_invariant=result.batch_invariant,
            providers=tuple(PROVIDERS.values()) if KINDS[name].on_gpu else (PROVIDERS["cpu"],),
            right_with=KINDS[name].right_with if name == "int8" and decision.chosen["int8"].saturating else (),
            fast_with=KINDS[name].fast_with,
            latency_ms=decision.chosen[name].latency_ms if name in decision.chosen else None,
            texts_per_second=decision.chosen[name].texts_per_second if name in decision.chosen else None,
            max_difference=result.proof.max_difference,
            label_changes=workshop.changes(result.answers, workshop.answers),
            score=result.score,
            golden_outputs=golden,
            golden_tolerance=KINDS[name].golden_tolerance * max(1.0, largest),
        )
    packages = ("burnish", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "optimum")
    return Manifest(
        task=source.task.name,
        labels=source.labels,
        decoding=source.decoding,
        stride=source.stride,
        max_length=source.network.max_length,
        pad_token_id=source.network.pad_token_id,
        inputs=source.network.inputs,
        outputs=source.network.outputs,
        variants=variants,
        defaults=decision.defaults,
        files={},
        golden_rows=rows.golden,
        reference_score=reference_score,
        evaluation_rows=len(rows.labelled),
        warnings=(*decision.warnings, *report.warnings),
        provenance={
            "base_model": Path(source.record.get("base_model", config.checkpoint)).name,
            "seed": source.record.get("seed"),
            "data": {split: _without_path(about) for split, about in source.record.get("data", {}).items()},
            "architecture": architecture(source.network.config),
            "pooling": source.record.get("pooling", "first"),
            "opset": graph.OPSET,
            "precision": config.precision,
            "max_drop": config.max_drop,
            "default_because": decision.because,
            "proof": {
                name: {"shapes": [list(pair) for pair in result.proof.shapes], "scale": result.proof.scale}
                for name, result in made.items()
            },
            "fusion": report.to_dict(),
            "autopilot": _path(decision),
            "machine": machine.description(),
            "versions": {name: machine.version(name) for name in packages},
        },
    )


def _path(decision: Decision) -> dict[str, Any] | None:
    """Return the path of the autopilot; None where it did not run."""
    outcome = decision.outcome
    if outcome is None:
        return None
    return {
        "rows": outcome.rows,
        "reference_score": outcome.reference,
        "candidates": [candidate.to_dict() for candidate in outcome.candidates],
        "sensitivity": [{"module": module, "error": error} for module, error in outcome.sensitivity.items()],
        "chosen": decision.chosen["int8"].name,
    }


def _without_path(about: dict[str, Any]) -> dict[str, Any]:
    return {key: Path(value).name if key == "source" else value for key, value in about.items()}
