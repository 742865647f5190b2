"""The autopilot: many ways to make an int8 variant, each tried on labelled rows and timed here; the best is taken.

The path: three calibrations, smoothing of large channels, word vectors left in float32, the modules that suffer most
left in float32 (found by quantizing one module at a time), weights of 7 bits, and ONNX Runtime's dynamic int8 for
comparison. Of those that lose no more score than allowed, the fastest is taken; where times are as good as equal, the
smaller file, then the one closer to float32. Closeness decides between settings of equal cost, since a score on some
hundred rows hardly tells them apart.

>>> outcome = Autopilot(workshop, observed, fp32).search()  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish_export import quantize
from burnish_export.calibration import METHODS, Observed, group_name, product_inputs
from burnish_export.evidence import Workshop
from burnish_export.quantize import Recipe
from burnish_serve.runner import Runner
from burnish_serve.session import create_session
from burnish_serve.tasks import Asked, Logits, Outputs
from burnish_serve.timing import PAUSE, interleave

# int8 must be this many times as fast as float32, alone or in batches, to be worth its difference.
WORTH = 1.2
# Times and sizes closer than this are taken for equal.
NOISE = 1.05
SMOOTHING = 0.5
ROUNDS = 5
LATENCY_TEXTS = 16
THROUGHPUT_TOKENS = 4096
SENSITIVITY_TOKENS = 2048
DYNAMIC = "dynamic"
EMBEDDINGS = "embeddings"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to make a variant, and what came of it."""

    name: str
    recipe: Recipe | None
    """None for float32 and ONNX Runtime's dynamic int8."""
    size: int
    """Bytes of the graph."""
    score: float | None
    """The task's metric on the rows of the search; None where there are no labels."""
    error: float
    """Mean squared difference of the logits from PyTorch's, as a share of their variance."""
    label_changes: int
    saturating: int = 0
    """Products that can exceed 16 bits, see `quantize.can_saturate`."""
    latency_ms: float = 0.0
    """Milliseconds for one text alone, over texts of all lengths."""
    texts_per_second: float = 0.0
    """In batches of like length."""

    def drop(self, reference: float | None) -> float:
        """Return the loss of score against a reference; 0 where there are no labels."""
        return 0.0 if self.score is None or reference is None else reference - self.score

    def to_dict(self) -> dict[str, Any]:
        """Return it for the manifest."""
        values = {key: value for key, value in vars(self).items() if key != "recipe"}
        return {**values, "recipe": None if self.recipe is None else dataclasses.asdict(self.recipe)}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The path that a search took."""

    rows: int
    """Rows of the search."""
    reference: float | None
    """PyTorch's score on them."""
    candidates: tuple[Candidate, ...]
    """float32 first."""
    sensitivity: dict[str, float]
    """`Candidate.error` where this module alone is int8, most sensitive first."""

    @property
    def fp32(self) -> Candidate:
        """Return the float32 graph's."""
        return self.candidates[0]

    @property
    def closest(self) -> Candidate:
        """Return the static int8 that is closest to PyTorch."""
        return min((one for one in self.candidates if one.recipe), key=lambda candidate: candidate.error)


class Autopilot:
    """One search.

    Args:
        workshop: folder, runners and scores.
        observed: from `calibration.observe`.
        say: called with one line of text for each step.
        seconds: time to measure each candidate, alone and in batches each.
    """

    def __init__(
        self, workshop: Workshop, observed: Mapping[str, Observed], say: Callable[[str], None], seconds: float
    ) -> None:
        self.workshop = workshop
        self.observed = observed
        self.say = say
        self.seconds = seconds
        self.runners: dict[str, Runner] = {}
        self.candidates: list[Candidate] = []
        self.labelled, self.rows, self.wanted = workshop.sample()
        self.answers = workshop.reference.decode(self.rows, self.wanted)
        self.reference = workshop.score(self.labelled, self.answers)

    def search(self, max_drop: float) -> Outcome:
        """Try the path, measure all that was tried, and return it."""
        self._add("float32", None, self.workshop.fp32, 0)
        tried = [self._try(method, Recipe(calibration=method)) for method in METHODS]
        best = min(tried, key=lambda candidate: candidate.error)
        recipe = best.recipe or Recipe()
        smooth = self._try(f"{best.name}, smoothed", dataclasses.replace(recipe, smoothing=SMOOTHING))
        if smooth.error < best.error:
            best, recipe = smooth, smooth.recipe or recipe
        self._try(f"{best.name}, float32 embeddings", dataclasses.replace(recipe, embeddings=False))
        self._try(f"{best.name}, 7 bits", dataclasses.replace(recipe, weight_bits=7))
        sensitivity = self._sensitivity(recipe)
        modules = [module for module in sensitivity if module != EMBEDDINGS]
        count = 1
        while count <= max(2, len(modules) // 2) and count <= len(modules):
            kept = tuple(modules[:count])
            found = self._try(f"{best.name}, {count} in float32", dataclasses.replace(recipe, kept=kept))
            if count > 1 and found.drop(self.reference) <= max_drop:
                break
            count *= 2
        dynamic = self.workshop.folder / "dynamic.onnx"
        quantize.quantize_dynamic(self.workshop.fp32, dynamic)
        self._add(DYNAMIC, None, dynamic, 0)
        return Outcome(
            rows=len(self.rows),
            reference=self.reference,
            candidates=tuple(self._timed()),
            sensitivity=sensitivity,
        )

    def _try(self, name: str, recipe: Recipe) -> Candidate:
        path = self.workshop.folder / f"{len(self.candidates)}.onnx"
        made = quantize.quantize_static(self.workshop.fp32, self.observed, recipe, path)
        return self._add(name, recipe, path, made.saturating)

    def _add(self, name: str, recipe: Recipe | None, path: Path, saturating: int) -> Candidate:
        runner = self.workshop.runner(create_session(path), name)
        outputs = runner.outputs(self.rows)
        answers = runner.decode(self.rows, outputs)
        candidate = Candidate(
            name=name,
            recipe=recipe,
            size=path.stat().st_size,
            score=self.workshop.score(self.labelled, answers),
            error=_error(outputs, self.wanted),
            label_changes=self.workshop.changes(answers, self.answers),
            saturating=saturating,
        )
        self.runners[name] = runner
        self.candidates.append(candidate)
        score = "" if candidate.score is None else f"{self.workshop.metric} {candidate.score:.4f}, "
        self.say(f"  tried {name}: {score}error {candidate.error:.2g}, {candidate.size / 1e6:.1f} MB")
        return candidate

    def _sensitivity(self, recipe: Recipe) -> dict[str, float]:
        """Return the error of each module quantized alone, greatest first."""
        modules = module_names(self.workshop.fp32)
        rows, wanted = _within(self.rows, self.wanted, SENSITIVITY_TOKENS)
        path = self.workshop.folder / "one.onnx"
        found = {}
        for module in (EMBEDDINGS, *modules):
            kept = tuple(other for other in modules if other != module)
            alone = dataclasses.replace(recipe, kept=kept, embeddings=module == EMBEDDINGS)
            quantize.quantize_static(self.workshop.fp32, self.observed, alone, path)
            found[module] = _error(self.workshop.runner(create_session(path), module).outputs(rows), wanted)
        self.say(f"  tried each of {len(modules)} modules alone")
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def _timed(self) -> list[Candidate]:
        """Return the candidates with their times, measured in turns."""
        order = np.argsort([row.tokens for row in self.rows], kind="stable")
        some = [self.rows[i] for i in order[np.linspace(0, len(order) - 1, LATENCY_TEXTS).astype(int)]]
        many, _ = _within(self.rows, self.wanted, THROUGHPUT_TOKENS)
        alone = {name: _one_by_one(runner, some) for name, runner in self.runners.items()}
        together = {name: _all(runner, many) for name, runner in self.runners.items()}
        pause = min(PAUSE, self.seconds)
        latency = interleave(alone, rounds=ROUNDS, seconds=self.seconds, pause=pause)
        batches = interleave(together, rounds=ROUNDS, seconds=self.seconds, pause=pause)
        return [
            dataclasses.replace(
                candidate,
                latency_ms=round(1000 * float(np.median(latency[candidate.name])) / len(some), 4),
                texts_per_second=round(len(many) / float(np.median(batches[candidate.name])), 1),
            )
            for candidate in self.candidates
        ]


def rank(outcome: Outcome, max_drop: float) -> list[Candidate]:
    """Return the static int8 candidates that stay inside the budget, best first.

    Graphs of one form (`Recipe.form`) take as long, so each is given the best times that were measured of its form.
    What is slower alone or in batches is slower: one module in float32 costs one text little, and a batch a tenth.

    Args:
        outcome: what was tried.
        max_drop: loss of score against PyTorch that is allowed.
    """
    static = [(one.recipe.form, one) for one in outcome.candidates if one.recipe is not None]
    alone: dict[object, float] = {}
    batches: dict[object, float] = {}
    for form, candidate in static:
        alone[form] = min(candidate.latency_ms, alone.get(form, candidate.latency_ms))
        batches[form] = max(candidate.texts_per_second, batches.get(form, 0.0))
    inside = [(form, one) for form, one in static if one.drop(outcome.reference) <= max_drop]
    fastest = min((alone[form] for form, _ in inside), default=0.0)
    most = max((batches[form] for form, _ in inside), default=0.0)
    smallest = min((candidate.size for _, candidate in inside), default=0)

    def key(pair: tuple[object, Candidate]) -> tuple[float, float, float]:
        form, candidate = pair
        slower, larger = max(alone[form] / fastest, most / batches[form]), candidate.size / smallest
        return (slower if slower > NOISE else 1.0, larger if larger > NOISE else 1.0, candidate.error)

    return [candidate for _, candidate in sorted(inside, key=key)]


def times_faster(candidate: Candidate, fp32: Candidate) -> float:
    """Return how many times as fast as float32 a candidate is, alone or in batches, whichever is more."""
    return max(fp32.latency_ms / candidate.latency_ms, candidate.texts_per_second / fp32.texts_per_second)


def module_names(path: Path) -> list[str]:
    """Return the names of the modules that can be left in float32: products that read the same tensor are one."""
    return list(dict.fromkeys(group_name(nodes) for nodes in product_inputs(ir.load(path).graph).values()))


def _error(outputs: Outputs, wanted: Outputs) -> float:
    ours, right = _flat(outputs), _flat(wanted)
    return float(np.mean((ours - right) ** 2) / max(float(np.var(right)), 1e-12))


def _flat(outputs: Outputs) -> Logits:
    """Return all numbers of some outputs in one row."""
    if isinstance(outputs, np.ndarray):
        return outputs.ravel()
    return np.concatenate([window.ravel() for row in outputs for window in row])


def _within(rows: Sequence[Asked], wanted: Outputs, tokens: int) -> tuple[list[Asked], Outputs]:
    """Return the first rows that have so many tokens together, one at least."""
    total = np.cumsum([row.tokens for row in rows])
    count = max(1, int(np.searchsorted(total, tokens, side="right")))
    return list(rows[:count]), wanted[:count]


def _one_by_one(runner: Runner, rows: Sequence[Any]) -> Callable[[], None]:
    def call() -> None:
        for row in rows:
            runner.outputs([row])

    return call


def _all(runner: Runner, rows: Sequence[Any]) -> Callable[[], object]:
    return lambda: runner.outputs(rows)
