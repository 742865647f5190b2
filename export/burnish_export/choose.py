"""Which variants a bundle gets, which of them is the default on each provider, and why.

>>> decision = choose(config, workshop, prove, print)  # doctest: +SKIP
>>> decision.defaults["CPUExecutionProvider"]  # doctest: +SKIP
('int8', 'int8-7bit', 'fp32')
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from burnish_export import calibration, half, quantize
from burnish_export.autopilot import WORTH, Autopilot, Candidate, Outcome, rank, times_faster
from burnish_export.config import ExportConfig
from burnish_export.evidence import Made, Workshop, windows
from burnish_export.variants import FILES
from burnish_serve.errors import InputError, ProofError, QualityGateError
from burnish_serve.session import PROVIDERS, probe

Prove = Callable[[str], Made]
"""Holds the file of a variant against PyTorch, scores it, and keeps what it found."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided."""

    defaults: dict[str, tuple[str, ...]]
    """As in the manifest."""
    because: str
    """Why the CPU's default is what it is, in a clause."""
    warnings: tuple[str, ...] = ()
    outcome: Outcome | None = None
    """The autopilot's path, where it ran."""
    chosen: dict[str, Candidate] = dataclasses.field(default_factory=dict)
    """The candidate that became a variant, by the variant's name."""


def choose(config: ExportConfig, workshop: Workshop, prove: Prove, reference: float | None, say: Say) -> Decision:
    """Make the variants that were asked for and decide between them.

    Args:
        config: the settings.
        workshop: the float32 graph and the rows.
        prove: called for each variant once its file stands.
        reference: PyTorch's score on the evaluation rows; None where there are none.
        say: called with one line of text for each step.

    Raises:
        InputError: int8 was demanded and cannot be made: no rows to calibrate on, or no products.
        QualityGateError: a precision was demanded and loses more than ``config.max_drop``.
    """
    cuda: tuple[str, ...] = ("fp32",)
    if config.precision == "fp16" or (config.precision == "auto" and probe(PROVIDERS["cuda"]) is None):
        cuda = _half(config, workshop, prove, reference)
    if config.precision in {"auto", "int8"}:
        decision = _integers(config, workshop, prove, reference, say)
    elif config.precision == "int8-dynamic":
        quantize.quantize_dynamic(workshop.fp32, workshop.path(FILES["int8-dynamic"]))
        because = _gate(config, prove("int8-dynamic"), reference)
        decision = Decision(defaults={PROVIDERS["cpu"]: ("int8-dynamic", "fp32")}, because=because)
    else:
        decision = Decision(defaults={PROVIDERS["cpu"]: ("fp32",)}, because="as asked for")
    return dataclasses.replace(decision, defaults={**decision.defaults, PROVIDERS["cuda"]: cuda})


def _half(config: ExportConfig, workshop: Workshop, prove: Prove, reference: float | None) -> tuple[str, ...]:
    """Make the float16 variant and return CUDA's defaults."""
    half.to_half(workshop.fp32, workshop.path(FILES["fp16"]))
    made = prove("fp16")
    allowed = half.TOLERANCE * made.proof.scale
    if made.proof.max_difference > allowed:
        raise ProofError(
            f"fp16 does not answer as the model does: logits differ by up to {made.proof.max_difference:.2g}, and "
            f"{allowed:.2g} is what float16 rounds; nothing was written"
        )
    if config.precision == "fp16":
        _gate(config, made, reference)
    drop = 0.0 if made.score is None or reference is None else reference - made.score
    return ("fp16", "fp32") if drop <= config.max_drop else ("fp32", "fp16")


def _integers(config: ExportConfig, workshop: Workshop, prove: Prove, reference: float | None, say: Say) -> Decision:
    """Search for the best static int8, make it, and weigh it against float32."""
    rows = workshop.evidence.calibration
    float32: dict[str, tuple[str, ...]] = {PROVIDERS["cpu"]: ("fp32",)}
    if not rows:
        if config.precision == "int8":
            raise InputError(f"int8 needs rows to set its ranges: give --calibrate F ({config.checkpoint} brings none)")
        missing = "there were no rows to calibrate int8 on, so the bundle holds float32 alone"
        return Decision(defaults=float32, because="no int8 could be made", warnings=(missing,))
    observed = calibration.observe(workshop.fp32, workshop.source.network, windows(rows), workshop.folder)
    if not observed:
        if config.precision == "int8":
            raise InputError(f"{config.checkpoint} has no products with constant weights that int8 could speed up")
        return Decision(defaults=float32, because="the graph has no products that int8 could speed up")
    say(f"autopilot: ranges from {len(rows)} rows")
    outcome = Autopilot(workshop, observed, say, config.seconds).search(config.max_drop)
    ranked = rank(outcome, config.max_drop)
    candidate, made = _first_inside(config, workshop, prove, reference, ranked or [outcome.closest], observed)
    taken, because = _weigh(config, made, reference, times_faster(candidate, outcome.fp32))
    names = ["int8", "fp32"] if taken else ["fp32"]
    chosen = {"fp32": outcome.fp32, "int8": candidate}
    if taken and candidate.saturating and candidate.recipe:
        narrow = dataclasses.replace(candidate.recipe, weight_bits=7)
        quantize.quantize_static(workshop.fp32, observed, narrow, workshop.path(FILES["int8-7bit"]))
        if _drop(prove("int8-7bit"), reference) <= config.max_drop:
            names.insert(1, "int8-7bit")
        for other in outcome.candidates:
            if other.recipe == narrow:
                chosen["int8-7bit"] = other
    return Decision(defaults={PROVIDERS["cpu"]: tuple(names)}, because=because, outcome=outcome, chosen=chosen)


def _weigh(config: ExportConfig, made: Made, reference: float | None, faster: float) -> tuple[bool, str]:
    """Return whether int8 becomes the default, and why.

    Raises:
        QualityGateError: it was demanded and loses too much.
    """
    speed = f"int8 is {faster:.2f} times as fast as float32 here"
    if config.precision == "int8":
        return True, f"{_gate(config, made, reference)}; {speed}"
    if made.score is None or reference is None:
        return False, "there were no labelled rows to see what int8 costs; give --eval F"
    told = f"int8 scores {made.score:.4f} and PyTorch {reference:.4f}; at most {config.max_drop} may be lost"
    if reference - made.score > config.max_drop:
        return False, told
    if faster < WORTH:
        return False, f"{speed}, and less than {WORTH} times is not worth a difference"
    return True, f"{told}; {speed}"


def _first_inside(
    config: ExportConfig,
    workshop: Workshop,
    prove: Prove,
    reference: float | None,
    ranked: list[Candidate],
    observed: dict[str, calibration.Observed],
) -> tuple[Candidate, Made]:
    """Make candidates, best first, until one stays inside the budget on all evaluation rows; else the first again."""

    def make(candidate: Candidate) -> Made:
        if candidate.recipe is None:
            raise AssertionError("only static int8 is ranked")
        quantize.quantize_static(workshop.fp32, observed, candidate.recipe, workshop.path(FILES["int8"]))
        return prove("int8")

    for candidate in ranked:
        made = make(candidate)
        if _drop(made, reference) <= config.max_drop:
            return candidate, made
    return ranked[0], made if len(ranked) == 1 else make(ranked[0])


def _gate(config: ExportConfig, made: Made, reference: float | None) -> str:
    """Return why a precision that was demanded is the default.

    Raises:
        QualityGateError: it loses too much.
    """
    name = made.runner.variant
    if made.score is None or reference is None:
        return "as asked for; there were no labelled rows to see what it costs"
    told = f"{name} scores {made.score:.4f} and PyTorch {reference:.4f}; at most {config.max_drop} may be lost"
    drop = reference - made.score
    if drop > config.max_drop:
        raise QualityGateError(
            f"{told}; --max-drop {drop:.4f} would let it pass, --precision auto keeps float32 instead"
        )
    return told


def _drop(made: Made, reference: float | None) -> float:
    return 0.0 if made.score is None or reference is None else reference - made.score
