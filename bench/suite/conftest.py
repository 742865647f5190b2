"""What the suite measures: the bundle that BURNISH_BUNDLE names, or else the tests' tiny one.

Each benchmark is one step of the runner alone, so that a change of speed has an address.

    BURNISH_BUNDLE=bundle/ pytest bench/suite --benchmark-only --benchmark-json=runs/suite.json
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from burnish_serve import Runner, load, open_bundle
from burnish_serve.tasks import Asked

TINY = Path(__file__).parents[2] / "tests" / "tiny_bundle"
NUM_ROWS = 256
LONGEST = 8  # golden rows are repeated up to so often within a row, so that lengths differ


@pytest.fixture(scope="session")
def folder() -> Path:
    """Return the bundle's folder."""
    return Path(os.environ.get("BURNISH_BUNDLE") or TINY)


@pytest.fixture(scope="session")
def model(folder: Path) -> Runner:
    """Return a runner with the bundle's default variant for this machine."""
    return load(folder)


@pytest.fixture(scope="session")
def rows(folder: Path) -> list[dict[str, Any]]:
    """Return 256 rows of mixed lengths, made of the bundle's golden rows."""
    golden = open_bundle(folder).manifest.golden_rows
    return [
        {column: " ".join([text] * (1 + number % LONGEST)) for column, text in golden[number % len(golden)].items()}
        for number in range(NUM_ROWS)
    ]


@pytest.fixture(scope="session")
def encoded(model: Runner, rows: list[dict[str, Any]]) -> list[Asked]:
    """Return the token ids of the rows."""
    return model.encode(rows)
