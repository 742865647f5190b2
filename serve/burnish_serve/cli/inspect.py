"""``burnish inspect``: what a bundle is, from its manifest."""

from __future__ import annotations

import dataclasses

import click

from burnish_serve.cli.options import signature_option
from burnish_serve.cli.verb import Report, verb
from burnish_serve.signature import open_signed


@click.command("inspect", short_help="show what is in a bundle")
@click.argument("bundle")
@signature_option
@verb()
def command(bundle: str, public_key: str | None) -> Report:
    """Show a bundle's task, labels, variants, scores and origin; every file is checked against its hash first."""
    manifest = open_signed(bundle, public_key).manifest
    shown = ", ".join(manifest.labels[:8]) + (
        f", … ({len(manifest.labels)} in all)" if len(manifest.labels) > 8 else ""
    )
    lines = [
        f"{bundle}: {manifest.task}, format {manifest.format}",
        f"labels     {shown}",
        f"length     up to {manifest.max_length} tokens",
        f"base       {manifest.provenance.get('base_model', 'unknown')}",
        "",
        f"{'variant':<14}{'MB':>8}{'score':>9}{'largest difference':>21}  {'answers':<24}default for",
    ]
    for name, variant in manifest.variants.items():
        score = "-" if variant.score is None else f"{variant.score:.4f}"
        answers = "same in any batch" if variant.batch_invariant else "depend on the batch"
        default = ", ".join(provider for provider, chosen in manifest.defaults.items() if chosen[:1] == (name,))
        size = manifest.files[variant.file].size / 1e6
        lines.append(f"{name:<14}{size:>8.1f}{score:>9}{variant.max_difference:>21.2g}  {answers:<24}{default}")
    if manifest.reference_score is not None:
        lines.append(f"PyTorch scored {manifest.reference_score:.4f} on the same {manifest.evaluation_rows} rows")
    lines += [f"warning: {warning}" for warning in manifest.warnings]
    return Report(dataclasses.asdict(manifest), "\n".join(lines))
