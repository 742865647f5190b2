"""``burnish verify``: whether a bundle is whole, and answers here as it did where it was made."""

from __future__ import annotations

import click

from burnish_serve import machine
from burnish_serve.choice import fits
from burnish_serve.cli.options import device_option, provider_option, signature_option
from burnish_serve.cli.verb import Report, verb
from burnish_serve.errors import ProofError
from burnish_serve.golden import largest_difference
from burnish_serve.opening import open_runner
from burnish_serve.providers import LIKE
from burnish_serve.session import provider_for
from burnish_serve.signature import open_signed


@click.command("verify", short_help="check that a bundle is whole and still answers as it did")
@click.argument("bundle")
@signature_option
@device_option
@provider_option
@verb()
def command(bundle: str, public_key: str | None, device: str, provider: str | None) -> Report:
    """Check every file against its hash (else exit 5), then replay the golden inputs on every variant (else exit 4)."""
    opened = open_signed(bundle, public_key)
    manifest = opened.manifest
    chosen = provider_for(device, provider)
    differences, elsewhere, wrong, unfit = {}, {}, [], []
    for name, variant in manifest.variants.items():
        if not fits(variant, machine.cpu_features()):
            unfit.append(name)
            continue
        if {chosen, LIKE.get(chosen)} & set(variant.providers):
            model = open_runner(opened, device=device, provider=provider, variant=name)
        else:  # one made for CPUs alone is replayed there
            model = open_runner(opened, device="cpu", variant=name)
        elsewhere[name] = "" if model.provider == chosen else " on the CPU"
        differences[name] = largest_difference(opened, model)
        if not differences[name] <= variant.golden_tolerance:
            wrong.append(f"{name} is off by {differences[name]:.2g} where {variant.golden_tolerance:.2g} is allowed")
    if wrong:
        raise ProofError(f"{bundle} does not answer on this machine as it did where it was made: {'; '.join(wrong)}")
    rows = len(manifest.golden_rows)
    lines = [f"{bundle} is whole: {len(manifest.files)} files match their hashes"]
    lines += [
        f"{name}: {rows} golden answers replayed{elsewhere[name]}, largest difference {off:.2g}"
        for name, off in differences.items()
    ]
    lines += [f"{name}: not replayed, it would not be taken on this processor" for name in unfit]
    data = {
        "bundle": bundle,
        "files": len(manifest.files),
        "golden_rows": rows,
        "differences": differences,
        "unfit": unfit,
    }
    return Report(data, "\n".join(lines))
