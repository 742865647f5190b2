"""A run held against a saved one: whether the bundle has become slower by more than noise and a tolerance.

Seconds of two runs cannot be compared, for the machine was another each time. What is compared is each variant's speed
in units of the reference that was timed in turns with it, in both runs.

>>> gate(read_saved(Path("speed.json")), data, drop=0.05)["passed"]  # doctest: +SKIP
True
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish_serve.errors import InputError

ROUNDS = 6
"""Fewer give no interval."""


def read_saved(path: Path) -> dict[str, Any]:
    """Return the figures that ``--out`` wrote.

    Raises:
        InputError: there are none, or they were written before there was a reference.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = all("per_reference" in found for found in data["variants"].values())
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}; burnish bench --out {path} writes one") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not what burnish bench --out writes") from error
    if not known:
        raise InputError(f"{path} has no reference to compare by; burnish bench --out {path} writes it again")
    return data


def gate(saved: Mapping[str, Any], data: Mapping[str, Any], *, drop: float) -> dict[str, Any]:
    """Return what has become of each variant's speed.

    A variant is slower where the median of its new speed lies under ``1 - drop`` of the old one, and neither median in
    the 95 % interval of the other: by more than is let go, and by more than the noise of either run.

    Args:
        saved: figures of the run before.
        data: figures of this run.
        drop: share of the speed that may be lost.

    Returns:
        ``passed``, and for each variant of both runs ``ratio`` (new speed over old), ``low`` and ``high`` (its 95 %
        interval) and ``slower``.

    Raises:
        InputError: the two runs measured different things.
    """
    check_same(saved, data)
    verdicts = {}
    for name, found in data["variants"].items():
        before, now = saved["variants"].get(name, {}).get("per_reference"), found["per_reference"]
        if before:
            ratio, low, high = (now[key] / before["median"] for key in ("median", "low", "high"))
            slower = ratio < 1 - drop and high < 1 and now["median"] < before["low"]
            verdicts[name] = {"ratio": ratio, "low": low, "high": high, "slower": slower}
    if not verdicts:
        names = ", ".join(saved["variants"])
        raise InputError(f"the saved run and this one have no variant in common; saved are: {names}")
    return {"passed": not any(found["slower"] for found in verdicts.values()), "drop": drop, "variants": verdicts}


def check_same(saved: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse runs on other rows, threads, providers or processors, and runs of too few rounds.

    Raises:
        InputError: they differ; the message says in what.
    """
    if min(saved["rounds"], data["rounds"]) < ROUNDS:
        raise InputError(f"a gate needs {ROUNDS} rounds or more in both runs: set --rounds")
    for name, old, new in (
        ("processor", saved["machine"].get("cpu"), data["machine"].get("cpu")),
        ("provider", saved["provider"], data["provider"]),
        ("threads", saved["threads"], data["threads"]),
        *((f"rows ({key})", saved["rows"][key], data["rows"][key]) for key in ("texts", "mean_tokens", "max_length")),
    ):
        if old != new:
            raise InputError(f"the saved run cannot be compared with this one: {name} was {old} and is {new}")
