"""One export: a checkpoint becomes a bundle, or nothing.

Everything is made in ``OUT.partial/`` and renamed when the manifest, written last, stands. Nothing is written that was
not proven: a float32 graph that does not answer as PyTorch does ends the export.

>>> export(ExportConfig(checkpoint="runs/intent", out=Path("runs/intent-bundle")))  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from burnish_export import card, graph, proof, quantize
from burnish_export.config import ExportConfig
from burnish_export.source import Source, architecture, read_source, reference_runner
from burnish_export.tokenizer import write_tokenizer
from burnish_serve import machine
from burnish_serve.bundle import MANIFEST, Manifest, Variant, describe_file, is_bundle
from burnish_serve.errors import InputError, QualityGateError
from burnish_serve.evaluation import Labelled, read_labelled
from burnish_serve.rows import read_rows
from burnish_serve.runner import Runner
from burnish_serve.session import PROVIDERS, create_session
from burnish_serve.tasks import Logits
from burnish_serve.text import Encoded, TextEncoder

FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_int8.onnx", "int8-dynamic": "onnx/model_int8_dynamic.onnx"}
CALIBRATION_ROWS = 512
GOLDEN_ROWS = 8
# How far a replayed logit may be off on another processor, as a share of the largest: rounding in another order,
# and for integers a value that falls on the other side of a step.
GOLDEN_TOLERANCE = {"fp32": 1e-4, "int8": 0.05, "int8-dynamic": 0.05}
INT8_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
FALLBACK_TEXTS = (("a short text",), ("Another text, somewhat longer than the first one.",), ("?",))


@dataclass(frozen=True)
class Made:
    """A variant with what was found out about it."""

    runner: Runner
    proof: proof.Proof
    logits: Logits
    """Of the evaluation rows."""
    score: float | None
    batch_invariant: bool


@dataclass(frozen=True)
class Rows:
    """The rows that an export works with."""

    labelled: list[Labelled]
    evaluation: list[Encoded]
    calibration: list[Encoded]
    golden: tuple[dict[str, Any], ...]

    @property
    def any(self) -> list[Encoded]:
        """Whatever real rows there are."""
        return self.evaluation or self.calibration


def export(config: ExportConfig, *, overwrite: bool = False, log: Callable[[str], None] | None = None) -> Manifest:
    """Write the bundle of a checkpoint to ``config.out`` and return its manifest.

    Args:
        config: the settings.
        overwrite: replace what stands at ``config.out``.
        log: called with one line of text for each step.

    Raises:
        InputError: the checkpoint or the rows cannot be used.
        ProofError: the float32 graph does not answer as the model does; nothing is written.
        QualityGateError: a precision was demanded and loses more than ``config.max_drop``; nothing is written.
    """
    if config.out.exists() and not overwrite:
        raise InputError(f"{config.out} exists already; give another --out, or --overwrite to replace it")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if config.out.exists() and not is_bundle(config.out):
        raise InputError(f"{config.out} is not a bundle, so --overwrite does not replace it")
    work = config.out.with_name(config.out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / "onnx").mkdir(parents=True)
        manifest = _build(config, work, log or (lambda line: None))
        if config.out.exists():
            shutil.rmtree(config.out)
        work.rename(config.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _build(config: ExportConfig, work: Path, say: Callable[[str], None]) -> Manifest:
    started = time.perf_counter()
    source = read_source(config.checkpoint, config.task, config.max_length)
    write_tokenizer(source, work)
    source.config.save_pretrained(work)
    encoder = TextEncoder(work / "tokenizer.json", source.max_length)
    reference = reference_runner(source, encoder)
    rows = _read(config, source, encoder)
    say(f"exporting {config.checkpoint}: {source.task.name}, {len(source.labels)} labels, {source.max_length} tokens")
    graph.to_onnx(source, work / FILES["fp32"])
    cases = proof.make_cases(reference, rows.any, source.config.vocab_size)
    wanted = reference.run(rows.evaluation)
    reference_score = _score(reference, rows.labelled, wanted)

    made: dict[str, Made] = {}

    def prove(name: str) -> None:
        made[name] = _prove(name, work, source, reference, rows, cases)
        result = made[name]
        score = "" if result.score is None else f", {source.task.metric} {result.score:.4f}"
        say(
            f"{name}: largest difference from PyTorch {result.proof.max_difference:.2g} over "
            f"{len(result.proof.shapes)} shapes{score}"
        )

    prove("fp32")
    warnings = _integers(config, work, rows, made["fp32"].runner, say)
    for name in ("int8", "int8-dynamic"):
        if (work / FILES[name]).exists():
            prove(name)
    default, reason = _choose(config, made, reference_score)
    say(f"default: {default} ({reason})")
    manifest = _manifest(config, source, work, rows, made, wanted, reference_score, default, reason, warnings)
    (work / "README.md").write_text(card.render(manifest, source), encoding="utf-8")
    files = {path: describe_file(work / path) for path in _paths(work)}
    provenance = {**manifest.provenance, "seconds": round(time.perf_counter() - started, 1)}
    final = Manifest(**{**vars(manifest), "files": files, "provenance": provenance})
    (work / f"{MANIFEST}.new").write_bytes(final.to_bytes())
    (work / f"{MANIFEST}.new").rename(work / MANIFEST)
    return final


def _read(config: ExportConfig, source: Source, encoder: TextEncoder) -> Rows:
    """Return evaluation, calibration and golden rows, from the flags or from the checkpoint's own files."""

    def own(name: str) -> str | None:
        path = source.folder / name if source.folder else None
        return str(path) if path and path.is_file() and path.stat().st_size else None

    columns = {"text_column": config.text_column, "label_column": config.label_column}
    evaluation = (config.eval, columns) if config.eval else (own("dev.jsonl"), {})
    labelled = read_labelled(evaluation[0], source.task, source.labels, **evaluation[1]) if evaluation[0] else []
    calibration = config.calibrate or own("calibration.jsonl")
    column = config.text_column if config.calibrate else source.task.text_columns[0]
    texts: list[tuple[str, ...]] = []
    for number, row in read_rows(calibration) if calibration else []:
        texts.append(tuple(source.task.texts(row, column, f"{calibration}:{number}").values()))
        if len(texts) == CALIBRATION_ROWS:
            break
    if calibration and not texts:
        raise InputError(f"{calibration} has no rows")
    names = source.task.text_columns
    golden = [example.asked for example in labelled]
    golden = golden or [dict(zip(names, text, strict=True)) for text in texts or FALLBACK_TEXTS]
    return Rows(
        labelled=labelled,
        evaluation=encoder([tuple(example.asked.values()) for example in labelled]) if labelled else [],
        calibration=encoder(texts) if texts else [],
        golden=tuple(golden[:GOLDEN_ROWS]),
    )


def _integers(config: ExportConfig, work: Path, rows: Rows, fp32: Runner, say: Callable[[str], None]) -> list[str]:
    """Write the integer variants that were asked for; return warnings for the manifest."""
    if config.precision == "int8-dynamic":
        quantize.quantize_dynamic(work / FILES["fp32"], work / FILES["int8-dynamic"])
    if config.precision not in {"auto", "int8"}:
        return []
    if not rows.calibration:
        if config.precision == "int8":
            raise InputError(f"int8 needs rows to set its ranges: give --calibrate F ({config.checkpoint} brings none)")
        return ["there were no rows to calibrate int8 on, so the bundle holds float32 alone"]
    ranges = quantize.calibrate(work / FILES["fp32"], fp32, rows.calibration, work)
    products = quantize.quantize_static(work / FILES["fp32"], ranges, work / FILES["int8"])
    say(f"int8: {products} products quantized, ranges from {len(rows.calibration)} rows")
    return []


def _prove(name: str, work: Path, source: Source, reference: Runner, rows: Rows, cases: Sequence[proof.Case]) -> Made:
    runner = Runner(
        task=source.task,
        labels=source.labels,
        problem_type=source.problem_type,
        encoder=reference.encoder,
        session=create_session(work / FILES[name]),
        inputs=source.inputs,
        pad_token_id=reference.pad_token_id,
        variant=name,
    )
    result = proof.prove(cases, runner, exact=name == "fp32")
    logits = runner.run(rows.evaluation)
    return Made(
        runner=runner,
        proof=result,
        logits=logits,
        score=_score(runner, rows.labelled, logits),
        batch_invariant=proof.is_batch_invariant(runner, rows.any or reference.encode(rows.golden)),
    )


def _score(runner: Runner, labelled: Sequence[Labelled], logits: Logits) -> float | None:
    if not labelled:
        return None
    predicted = [runner.labels[i] for i in logits.argmax(-1)]
    return float(runner.task.score([row.label for row in labelled], predicted, runner.labels)[runner.task.metric])


def _choose(config: ExportConfig, made: dict[str, Made], reference: float | None) -> tuple[str, str]:
    """Return the CPU's default variant and why.

    Raises:
        QualityGateError: a precision was demanded and loses too much.
    """
    wanted = "int8" if config.precision == "auto" else config.precision
    if wanted not in made:
        return "fp32", "no int8 could be made without rows to calibrate on"
    if wanted == "fp32":
        return "fp32", "as asked for"
    score = made[wanted].score
    if score is None or reference is None:
        if config.precision == "auto":
            return "fp32", f"there were no labelled rows to see what {wanted} costs; give --eval F"
        return wanted, "as asked for; there were no labelled rows to see what it costs"
    drop = reference - score
    told = f"{wanted} scores {score:.4f} and PyTorch {reference:.4f}; at most {config.max_drop} may be lost"
    if drop <= config.max_drop:
        return wanted, told
    if config.precision == "auto":
        return "fp32", told
    raise QualityGateError(f"{told}; --max-drop {drop:.4f} would let it pass, --precision auto keeps float32 instead")


def _manifest(
    config: ExportConfig,
    source: Source,
    work: Path,
    rows: Rows,
    made: dict[str, Made],
    wanted: Logits,
    reference_score: float | None,
    default: str,
    reason: str,
    warnings: Sequence[str],
) -> Manifest:
    variants = {}
    for name, result in made.items():
        golden = result.runner.logits(rows.golden)
        variants[name] = Variant(
            file=FILES[name],
            precision=name,
            batch_invariant=result.batch_invariant,
            providers=tuple(PROVIDERS.values()) if name == "fp32" else (PROVIDERS["cpu"],),
            cpu_features=() if name == "fp32" else INT8_FEATURES,
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
        defaults={PROVIDERS["cpu"]: default, PROVIDERS["cuda"]: "fp32"},
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


def _paths(work: Path) -> list[str]:
    return sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
