"""``burnish doctor``: what this machine is and can run, each claim tried and not assumed."""

from __future__ import annotations

import click

from burnish_serve import machine
from burnish_serve.cli.verb import Report, verb
from burnish_serve.session import PROVIDERS, probe

# A distribution that only this extra brings.
EXTRAS = {
    "eval": "scikit-learn",
    "files": "pyarrow",
    "train": "accelerate",
    "export": "onnxscript",
    "bench": "pytest-benchmark",
    "sign": "model-signing",
}


@click.command("doctor", short_help="show what this machine can run")
@verb()
def command() -> Report:
    """Show processor, quota, ONNX Runtime, providers that really run, and extras; exit 1 where nothing can run."""
    about = machine.description()
    conflict = machine.wheel_conflict()
    wheels = machine.onnxruntime_wheels()
    providers = {
        name: (probe(provider) if wheels else "no ONNX Runtime: pip install 'burnish[cpu]'")
        for name, provider in PROVIDERS.items()
    }
    extras = {extra: machine.version(distribution) is not None for extra, distribution in EXTRAS.items()}
    quota = machine.cpu_quota()
    lines = [
        f"processor  {about['cpu']}",
        f"features   {' '.join(machine.cpu_features()) or 'none that matter here'}",
        f"threads    {about['threads']} (CPU quota: {'none' if quota is None else f'{quota:g}'})",
        f"memory     {about['memory_gib']} GiB",
        f"python     {about['python']}, burnish {about['burnish']}",
        f"runtime    {', '.join(f'{name} {found}' for name, found in wheels.items()) or 'none'}",
        *(f"provider   {name}: {'works' if cause is None else f'no: {cause}'}" for name, cause in providers.items()),
        *(f"extra      {extra}: {'installed' if there else 'not installed'}" for extra, there in extras.items()),
    ]
    if conflict:
        lines.append(f"problem    {conflict}")
    data = {"machine": about, "cpu_quota": quota, "providers": providers, "extras": extras, "problem": conflict}
    return Report(data, "\n".join(lines), status=int(bool(conflict) or providers["cpu"] is not None))
