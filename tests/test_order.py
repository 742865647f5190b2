"""The order of rows, for one process and for several."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from burnish_train.order import EpochBatches


@given(st.integers(1, 6), st.integers(1, 4), st.integers(4, 40), st.integers(0, 3))
def test_processes_share_each_batch_and_each_row_once(size, processes, count, epoch):
    rows = [{"input_ids": [0] * (number % 7 + 1)} for number in range(count)]
    shares = []
    for process in range(processes):
        batches = EpochBatches(size, rows, seed=3, processes=processes, process=process)
        batches.set_epoch(epoch)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches)
    assert len({len(share) for share in shares}) == 1, "a process without a batch would keep the others waiting"
    assert all(batch for share in shares for batch in share)
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(count))
    for batches in zip(*shares, strict=True):
        lengths = [len(batch) for batch in batches]
        assert max(lengths) - min(lengths) <= 1
