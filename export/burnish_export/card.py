"""The model card: what the bundle is, for people, as the Hub shows it, with the autopilot's path as table and plot.

>>> render(manifest, source).splitlines()[0]  # doctest: +SKIP
'---'
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish_export.autopilot import Candidate, Outcome
from burnish_export.source import Source
from burnish_serve.bundle import Manifest

PLOT = "frontier.png"
# Where numbers stand around their points, so that those of near ones do not lie on one another.
OFFSETS = ((0, 11), (11, 0), (0, -11), (-11, 0), (9, 9), (9, -9), (-9, -9), (-9, 9))


def render(manifest: Manifest, source: Source) -> str:
    """Return the card as Markdown with the Hub's header."""
    about = manifest.provenance
    labels = ", ".join(f"`{label}`" for label in manifest.labels)
    metric = source.task.metric
    lines = [
        "---",
        f"pipeline_tag: {source.task.pipeline}",
        "library_name: burnish",
        "tags: [onnx, onnxruntime, burnish]",
        "---",
        "",
        f"# {manifest.task}" + (f": {len(manifest.labels)} labels" if labels else ""),
        "",
        f"Base model: `{about['base_model']}` ({about['architecture']['model_type']}).",
        f"Fine-tuned and exported with Burnish {about['versions']['burnish']}.",
        "",
        *([f"Labels: {labels}.", ""] if labels else []),
        "## Use",
        "",
        "```python",
        "from burnish_serve import load",
        "",
        'model = load("path/to/this/folder")',
        f"model({_plain(manifest.golden_rows[:2])!r})",
        "```",
        "",
        "## Variants",
        "",
        f"| variant | file | {metric} | ms a text | largest difference of a logit from PyTorch | answers |",
        "|---|---|---|---|---|---|",
    ]
    for name, variant in manifest.variants.items():
        score = _or_dash(variant.score, ".4f")
        alone = "the same alone and in any batch" if variant.batch_invariant else "depend on what else is in the batch"
        latency = _or_dash(variant.latency_ms, ".2f")
        lines.append(f"| {name} | `{variant.file}` | {score} | {latency} | {variant.max_difference:.2g} | {alone} |")
    if manifest.reference_score is not None:
        lines += [
            "",
            f"PyTorch in float32: {metric} {manifest.reference_score:.4f} on the same {manifest.evaluation_rows} rows.",
            "Where these are the dev rows that chose the checkpoint, expect a little less on new text.",
        ]
    shapes = about["proof"]["fp32"]["shapes"]
    lines += [
        "",
        f"The float32 graph was held against PyTorch on {len(shapes)} shapes, {shapes[0]} to {shapes[-1]},",
        "with ragged padding, before anything was written.",
        f"Default on a CPU: {manifest.defaults['CPUExecutionProvider'][0]} ({about['default_because']}).",
        *_tried(about.get("autopilot"), metric),
        "",
        "## Limits",
        "",
        f"- Texts are read up to {manifest.max_length} tokens; what is longer is cut, and the answer says `truncated`.",
        "- A score says which label is likelier among those above, not whether the text belongs to any of them.",
        *(f"- {warning}" for warning in manifest.warnings),
        "",
        "## Data",
        "",
    ]
    for split, data in about["data"].items():
        detail = ", ".join(f"{key} {value}" for key, value in data.items())
        lines.append(f"- {split}: {detail}")
    return "\n".join(lines) + "\n"


def draw(outcome: Outcome, chosen: Mapping[str, Candidate], metric: str, path: Path) -> None:
    """Draw score against latency of all candidates, and the frontier: those that none other beats in both.

    Where there are no labelled rows, closeness to PyTorch takes the place of the score.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    points = [(one, _height(one)) for one in outcome.candidates]
    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=100)
    best = float("-inf")
    frontier = []
    for one, height in sorted(points, key=lambda pair: (pair[0].latency_ms, -pair[1])):
        if height > best:
            best = height
            frontier.append((one.latency_ms, height))
    axes.step(*zip(*frontier, strict=True), where="post", color="0.6", label="frontier")
    for number, (one, height) in enumerate(points, 1):
        taken = ", ".join(name for name, candidate in chosen.items() if candidate is one)
        text = f"{number}  {one.name} ({taken})" if taken else f"{number}  {one.name}"
        axes.plot(one.latency_ms, height, "o", color="tab:red" if taken else "tab:blue", alpha=0.6, label=text)
        place = OFFSETS[number % len(OFFSETS)]
        axes.annotate(
            str(number), (one.latency_ms, height), place, textcoords="offset points", ha="center", va="center"
        )
    axes.set_xlabel("milliseconds for one text alone")
    axes.set_ylabel(metric if outcome.reference is not None else "closeness to PyTorch, -log10 of the error")
    axes.set_title(f"{len(points)} candidates on {outcome.rows} rows; in red what became a variant")
    axes.margins(0.1)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False, handlelength=0)
    figure.savefig(path, metadata={"Software": None}, bbox_inches="tight")
    pyplot.close(figure)


def _plain(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return rows as a user would write them: texts where there is nothing else."""
    return [row["text"] if set(row) == {"text"} else dict(row) for row in rows]


def _height(candidate: Candidate) -> float:
    return -math.log10(max(candidate.error, 1e-12)) if candidate.score is None else candidate.score


def _tried(path: Mapping[str, Any] | None, metric: str) -> list[str]:
    """Return the section on the autopilot; nothing where it did not run."""
    if path is None:
        return []
    lines = [
        "",
        "## What was tried",
        "",
        f"Each way to make int8, on {path['rows']} rows, measured in turns on the machine that made this bundle. The",
        "error is the mean squared difference of the logits from PyTorch's, as a share of their variance.",
        "",
        f"| candidate | {metric} | error | labels changed | ms a text | texts a second | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in path["candidates"]:
        name = f"**{one['name']}**" if one["name"] == path["chosen"] else one["name"]
        lines.append(
            f"| {name} | {_or_dash(one['score'], '.4f')} | {one['error']:.2g} | {one['label_changes']} | "
            f"{one['latency_ms']:.2f} | {one['texts_per_second']:.0f} | {one['size'] / 1e6:.1f} |"
        )
    worst = ", ".join(f"`{one['module']}` {one['error']:.1g}" for one in path["sensitivity"][:5])
    return [*lines, "", f"Most sensitive modules, by the error of each alone: {worst}.", "", f"![{metric}]({PLOT})"]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
