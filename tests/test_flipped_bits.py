"""One flipped bit in a bundle is found, wherever it is: 1,000 of 1,000, equally many in every file.

On the tiny bundle in `make test`. On a bundle of your own, copied first, which takes as long as opening it 1,000 times:

    BURNISH_BUNDLE=runs/intent-bundle pytest -m slow tests/test_flipped_bits.py
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish_serve import BundleError, open_bundle
from burnish_serve.bundle import MANIFEST

PLACES = 1000
GIVEN = os.environ.get("BURNISH_BUNDLE")
BUNDLES = [
    pytest.param(Path(__file__).parent / "tiny_bundle", id="tiny"),
    *([pytest.param(Path(GIVEN), id="BURNISH_BUNDLE", marks=pytest.mark.slow)] if GIVEN else []),
]


def places(folder: Path, seed: int) -> Iterator[tuple[Path, int, int]]:
    """Yield a file, a byte of it and a bit of that: the files in turns, the rest at random."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    draw = random.Random(seed)
    for number in range(PLACES):
        path = files[number % len(files)]
        yield path, draw.randrange(path.stat().st_size), draw.randrange(8)


@contextlib.contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """Flip a bit of a file where it stands, and flip it back."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit]))

    flip()
    try:
        yield
    finally:
        flip()


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_flipped_bit_anywhere_is_found(bundle, tmp_path):
    manifest = open_bundle(bundle).manifest
    folder = tmp_path / "bundle"
    for name in (*manifest.files, MANIFEST):  # copied by name: not what Git or the Hub left beside them
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, folder / name)
    flips, missed = Counter(), []
    for path, place, bit in places(folder, seed=0):
        with flipped(path, place, bit), contextlib.suppress(BundleError):
            open_bundle(folder)
            missed.append(f"{path.relative_to(folder)}: bit {bit} of byte {place}")
        flips[path.relative_to(folder).as_posix()] += 1
    assert missed == []
    assert set(flips) == {*manifest.files, MANIFEST}
    assert flips.total() == PLACES
    assert max(flips.values()) - min(flips.values()) <= 1
    assert open_bundle(folder).manifest == manifest, "all bits were flipped back"
