"""``burnish verify``: whether a bundle is whole, and answers here as it did where it was made."""

from __future__ import annotations

import click
import numpy as np

from burnish_serve.bundle import open_bundle
from burnish_serve.cli.options import device_option
from burnish_serve.cli.verb import Report, verb
from burnish_serve.errors import ProofError
from burnish_serve.runner import open_runner
from burnish_serve.session import provider_for


@click.command("verify", short_help="check that a bundle is whole and still answers as it did")
@click.argument("bundle")
@device_option
@verb()
def command(bundle: str, device: str) -> Report:
    """Check every file against its hash (else exit 5), then replay the golden inputs on every variant (else exit 4)."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    differences, wrong = {}, []
    for name, variant in manifest.variants.items():
        fits = provider_for(device) in variant.providers  # one made for CPUs alone is replayed there
        logits = open_runner(opened, device=device if fits else "cpu", variant=name).logits(manifest.golden_rows)
        golden = np.array(variant.golden_outputs, dtype=np.float32).reshape(logits.shape)
        differences[name] = float(np.abs(logits - golden).max(initial=0))
        if not differences[name] <= variant.golden_tolerance:
            wrong.append(f"{name} is off by {differences[name]:.2g} where {variant.golden_tolerance:.2g} is allowed")
    if wrong:
        raise ProofError(f"{bundle} does not answer on this machine as it did where it was made: {'; '.join(wrong)}")
    rows = len(manifest.golden_rows)
    lines = [f"{bundle} is whole: {len(manifest.files)} files match their hashes"]
    lines += [
        f"{name}: {rows} golden answers replayed, largest difference {off:.2g}" for name, off in differences.items()
    ]
    data = {"bundle": bundle, "files": len(manifest.files), "golden_rows": rows, "differences": differences}
    return Report(data, "\n".join(lines))
