"""The model card: what the bundle is, for people, as the Hub shows it.

>>> render(manifest, source).splitlines()[0]  # doctest: +SKIP
'---'
"""

from __future__ import annotations

from burnish_export.source import Source
from burnish_serve.bundle import Manifest


def render(manifest: Manifest, source: Source) -> str:
    """Return the card as Markdown with the Hub's header."""
    about = manifest.provenance
    labels = ", ".join(f"`{label}`" for label in manifest.labels)
    metric = source.task.metric
    lines = [
        "---",
        f"pipeline_tag: {manifest.task}",
        "library_name: burnish",
        "tags: [onnx, onnxruntime, burnish]",
        "---",
        "",
        f"# {manifest.task}: {len(manifest.labels)} labels",
        "",
        f"Base model: `{about['base_model']}` ({about['architecture']['model_type']}).",
        f"Fine-tuned and exported with Burnish {about['versions']['burnish']}.",
        "",
        f"Labels: {labels}.",
        "",
        "## Use",
        "",
        "```python",
        "from burnish_serve import load",
        "",
        'model = load("path/to/this/folder")',
        f"model({[next(iter(row.values())) for row in manifest.golden_rows[:2]]!r})",
        "```",
        "",
        "## Variants",
        "",
        f"| variant | file | {metric} | largest difference of a logit from PyTorch | answers |",
        "|---|---|---|---|---|",
    ]
    for name, variant in manifest.variants.items():
        score = "-" if variant.score is None else f"{variant.score:.4f}"
        alone = "the same alone and in any batch" if variant.batch_invariant else "depend on what else is in the batch"
        lines.append(f"| {name} | `{variant.file}` | {score} | {variant.max_difference:.2g} | {alone} |")
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
