"""One export: a checkpoint becomes a bundle, or nothing.

Everything is made in ``OUT.partial/`` and renamed when the manifest, written last, stands. Nothing is written that was
not proven: a float32 graph that does not answer as PyTorch does ends the export.

>>> export(ExportConfig(checkpoint="runs/intent", out=Path("runs/intent-bundle")))  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import transformers

from burnish_export import card, graph, proof, quantize
from burnish_export.config import ExportConfig
from burnish_export.evidence import Evidence, Made, read_evidence, score_of
from burnish_export.manifest import FILES, make_manifest
from burnish_export.source import Source, read_source, reference_runner
from burnish_export.tokenizer import write_tokenizer
from burnish_serve.bundle import MANIFEST, Manifest, describe_file, is_bundle
from burnish_serve.errors import InputError, QualityGateError
from burnish_serve.runner import Runner
from burnish_serve.session import create_session
from burnish_serve.text import TextEncoder


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
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each retry without a network
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
    rows = read_evidence(config, source, encoder)
    say(f"exporting {config.checkpoint}: {source.task.name}, {len(source.labels)} labels, {source.max_length} tokens")
    graph.to_onnx(source, work / FILES["fp32"])
    cases = proof.make_cases(reference, rows.any, source.config.vocab_size)
    wanted = reference.run(rows.evaluation)
    reference_score = score_of(reference, rows.labelled, wanted)

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
    manifest = make_manifest(config, source, rows, made, wanted, reference_score, default, reason, warnings)
    (work / "README.md").write_text(card.render(manifest, source), encoding="utf-8")
    files = {path: describe_file(work / path) for path in _paths(work)}
    provenance = {**manifest.provenance, "seconds": round(time.perf_counter() - started, 1)}
    final = Manifest(**{**vars(manifest), "files": files, "provenance": provenance})
    (work / f"{MANIFEST}.new").write_bytes(final.to_bytes())
    (work / f"{MANIFEST}.new").rename(work / MANIFEST)
    return final


def _integers(config: ExportConfig, work: Path, rows: Evidence, fp32: Runner, say: Callable[[str], None]) -> list[str]:
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


def _prove(
    name: str, work: Path, source: Source, reference: Runner, rows: Evidence, cases: Sequence[proof.Case]
) -> Made:
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
        score=score_of(runner, rows.labelled, logits),
        batch_invariant=proof.is_batch_invariant(runner, rows.any or reference.encode(rows.golden)),
    )


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


def _paths(work: Path) -> list[str]:
    return sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
