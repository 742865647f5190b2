"""The long acceptance row of `burnish audit`: `make accept DATA=folder`; the folder holds ``banking77/train.jsonl``."""

import random
import time

import pytest

import starter
from accept import burnish
from burnish_serve.rows import read_rows
from tiny_model import write_rows

pytestmark = [pytest.mark.slow, pytest.mark.data]
SHARE = 0.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_wrong_labels_are_found(data, tmp_path, seed):
    """5 % of the rows get another label, drawn from the other 76: the first 5 % that are doubted hold 60 % of them."""
    rows = [row for _, row in read_rows(data / "banking77" / "train.jsonl")]
    labels, draw = sorted({row["label"] for row in rows}), random.Random(seed)
    wrong = set(draw.sample(range(len(rows)), round(SHARE * len(rows))))
    for place in wrong:
        rows[place]["label"] = draw.choice([label for label in labels if label != rows[place]["label"]])
    path, started = write_rows(tmp_path / "planted.jsonl", rows), time.perf_counter()
    found = burnish("audit", path, "--model", starter.encoder())
    seconds = time.perf_counter() - started
    first = {one["line"] - 1 for one in found["wrong_labels"][: len(wrong)]}
    share = len(first & wrong) / len(wrong)
    print(f"seed {seed}: {share:.3f} of {len(wrong)} found in the first {len(first)} of {len(rows)}, {seconds:.0f} s")
    assert share >= 0.6
