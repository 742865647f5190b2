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

from burnish_export import card, fusion, graph, proof
from burnish_export.choose import choose
from burnish_export.config import ExportConfig
from burnish_export.evidence import Made, Workshop, read_evidence, windows
from burnish_export.heads import without_idle_heads
from burnish_export.manifest import make_manifest
from burnish_export.source import read_source, reference_runner
from burnish_export.tokenizer import write_config, write_tokenizer
from burnish_export.variants import FILES
from burnish_serve.bundle import MANIFEST, Manifest, describe_file, is_bundle
from burnish_serve.errors import InputError
from burnish_serve.session import PROVIDERS, create_session
from burnish_serve.signature import sign
from burnish_serve.text import encoder_for


def export(config: ExportConfig, *, overwrite: bool = False, log: Callable[[str], None] | None = None) -> Manifest:
    """Write the bundle of a checkpoint to ``config.out`` and return its manifest.

    Args:
        config: the settings.
        overwrite: replace what stands at ``config.out``.
        log: called with one line of text for each step.

    Raises:
        InputError: the checkpoint or the rows cannot be used.
        FusionError: something is in pieces that should be one operator; nothing is written.
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
        if config.sign_key:
            sign(work, config.sign_key)
        if config.out.exists():
            shutil.rmtree(config.out)
        work.rename(config.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _build(config: ExportConfig, work: Path, say: Callable[[str], None]) -> Manifest:
    started = time.perf_counter()
    source = read_source(config.checkpoint, config.task, config.max_length)
    network = source.network
    write_tokenizer(source, work)
    write_config(source, work)
    encoder = encoder_for(source.task, work / "tokenizer.json", network.max_length, source.stride)
    reference = reference_runner(source, encoder)
    rows = read_evidence(config, source, reference)
    say(f"exporting {config.checkpoint}: {source.task.name}, {len(source.labels)} labels, {network.max_length} tokens")
    lean, idle = without_idle_heads(network)
    if idle:
        say(f"{idle} attention heads that add nothing are left out of the graph")
    graph.to_onnx(lean, work / FILES["fp32"])
    cases = proof.make_cases(reference.session, network, windows(rows.any))
    wanted = reference.outputs(rows.evaluation)
    workshop = Workshop(
        source=source,
        work=work,
        folder=work / "tried",
        fp32=work / FILES["fp32"],
        reference=reference,
        evidence=rows,
        wanted=wanted,
        answers=reference.decode(rows.evaluation, wanted),
    )
    workshop.folder.mkdir()
    made: dict[str, Made] = {}

    def prove(name: str) -> Made:
        result = made[name] = _prove(name, workshop, cases)
        score = "" if result.score is None else f", {source.task.metric} {result.score:.4f}"
        say(
            f"{name}: largest difference from PyTorch {result.proof.max_difference:.2g} over "
            f"{len(result.proof.shapes)} shapes{score}"
        )
        return result

    prove("fp32")
    fusion.check(network, workshop.fp32)  # before the long part
    reference_score = workshop.score(rows.labelled, workshop.answers)
    decision = choose(config, workshop, prove, reference_score, say)
    shutil.rmtree(workshop.folder)
    report = fusion.check(network, workshop.fp32, workshop.path(FILES["int8"]) if "int8" in made else None)
    default = decision.defaults[PROVIDERS["cpu"]][0]
    say(f"default: {default} ({decision.because})")
    manifest = make_manifest(config, workshop, made, decision, report, reference_score)
    if decision.outcome:
        card.draw(decision.outcome, decision.chosen, source.task.metric, work / card.PLOT)
    (work / "README.md").write_text(card.render(manifest, source), encoding="utf-8")
    files = {path: describe_file(work / path) for path in _paths(work)}
    provenance = {**manifest.provenance, "seconds": round(time.perf_counter() - started, 1)}
    final = Manifest(**{**vars(manifest), "files": files, "provenance": provenance})
    (work / f"{MANIFEST}.new").write_bytes(final.to_bytes())
    (work / f"{MANIFEST}.new").rename(work / MANIFEST)
    return final


def _prove(name: str, workshop: Workshop, cases: Sequence[proof.Case]) -> Made:
    network, rows = workshop.source.network, workshop.evidence
    runner = workshop.runner(create_session(workshop.path(FILES[name])), name)
    result = proof.prove(cases, runner.session, network.outputs, name, exact=name == "fp32")
    outputs = runner.outputs(rows.evaluation)
    answers = runner.decode(rows.evaluation, outputs)
    some = windows(rows.any or runner.encode(rows.golden))
    return Made(
        runner=runner,
        proof=result,
        outputs=outputs,
        answers=answers,
        score=workshop.score(rows.labelled, answers),
        batch_invariant=proof.is_batch_invariant(runner.session, network, some, exact=name.startswith("int8")),
    )


def _paths(work: Path) -> list[str]:
    return sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
