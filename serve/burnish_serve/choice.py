"""Which variant of a bundle a machine takes: the manifest's best that the processor answers rightly with.

Products of 8-bit integers saturate on x86 processors without VNNI, so an int8 variant may be right on the machine that
made the bundle and wrong on the next. The manifest says what each variant needs; here it meets what there is.

>>> choose(manifest, "CPUExecutionProvider", machine.cpu_features())  # doctest: +SKIP
('int8', None)
"""

from __future__ import annotations

from collections.abc import Sequence

from burnish_serve.bundle import Manifest, Variant
from burnish_serve.providers import LIKE


def choose(
    manifest: Manifest, provider: str, features: Sequence[str], variant: str | None = None
) -> tuple[str, str | None]:
    """Return a variant's name, and one line for the user where it is not the one that was meant, else None.

    Args:
        manifest: what there is.
        provider: the execution provider that will run it; one that the manifest does not name takes the variants of
            the one it is like: OpenVINO those of the CPU, TensorRT those of CUDA.
        features: the processor's, from `machine.cpu_features`.
        variant: a name that the user demands; it is taken, and the line says where it does not fit.
    """
    if variant is not None:
        chosen = manifest.variants[variant]
        return variant, None if fits(chosen, features) else f"{variant} may answer wrongly here: {_lacks(chosen)}"
    named = manifest.defaults.get(provider) or manifest.defaults.get(LIKE.get(provider, provider))
    wanted = named or tuple(manifest.variants)
    for name in (*wanted, *manifest.variants):
        if fits(manifest.variants[name], features):
            if name == wanted[0]:
                return name, None
            return name, f"taking the variant {name} instead of {wanted[0]}: {_lacks(manifest.variants[wanted[0]])}"
    return wanted[0], f"{wanted[0]} may answer wrongly here: {_lacks(manifest.variants[wanted[0]])}"


def fits(variant: Variant, features: Sequence[str]) -> bool:
    """Return whether a processor with these features answers rightly with a variant."""
    return not variant.right_with or bool(set(variant.right_with) & set(features))


def _lacks(variant: Variant) -> str:
    return f"it needs a processor with {' or '.join(variant.right_with)}"
