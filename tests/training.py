"""What several tests of training share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def record_of(folder: Path) -> dict:
    return json.loads((folder / "burnish.json").read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for path in sorted(folder.glob("*.safetensors")) for name, array in load_file(path).items()}


def furthest_apart(first: Path, second: Path) -> float:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def begun_before(out: Path, seconds: float) -> None:
    """Make the working folder of a run as one leaves it that took so long until its last checkpoint."""
    work = out.with_name(out.name + ".partial")
    work.mkdir(parents=True)
    (work / "seconds.json").write_text(str(seconds), encoding="utf-8")


def found_in(result: dict) -> list[dict]:
    """Return the trials of a search without how long they took."""
    return [{**row, "seconds": None} for row in result["trials"]]
