"""Batches must hold every row exactly once, and be no larger than their budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve import batching

lengths = st.lists(st.integers(0, 60), max_size=80)
rows_of_ids = st.lists(st.lists(st.integers(1, 1000), max_size=9), min_size=1, max_size=9).map(
    lambda rows: [np.array(row, dtype=np.int64) for row in rows]
)


@given(lengths, st.integers(1, 200))
def test_every_row_stands_in_exactly_one_batch(lengths, max_tokens):
    batches = batching.plan(lengths, max_tokens)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(lengths, st.integers(1, 200))
def test_the_budget_is_kept_unless_one_row_alone_exceeds_it(lengths, max_tokens):
    for batch in batching.plan(lengths, max_tokens):
        tokens = len(batch) * max(lengths[row] for row in batch)
        assert tokens <= max_tokens or len(batch) == 1


@given(lengths, st.integers(1, 200))
def test_batches_are_full_longest_first_and_in_order_of_length(lengths, max_tokens):
    batches = batching.plan(lengths, max_tokens)
    flat = [int(row) for batch in batches for row in batch]
    assert flat == sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(1, lengths[batch[0]]) > max_tokens


@given(lengths, st.integers(1, 200), st.integers(0, 60))
def test_a_batch_is_cut_where_it_saves_more_padding_than_a_run_costs(lengths, max_tokens, run_tokens):
    def cost(batches):
        return sum(run_tokens + len(batch) * lengths[batch[0]] for batch in batches)

    whole, cut = batching.plan(lengths, max_tokens), batching.plan(lengths, max_tokens, run_tokens)
    assert [int(row) for batch in cut for row in batch] == [int(row) for batch in whole for row in batch]
    assert cost(cut) <= cost(whole)
    for batch in cut:
        for place in range(1, len(batch)):  # no cut is left that would be worth its run
            assert cost([batch[:place], batch[place:]]) >= cost([batch])


def test_a_long_row_does_not_make_its_neighbours_long():
    assert [batch.tolist() for batch in batching.plan([8, 9, 50, 8], 512, 32)] == [[2], [1, 0, 3]]
    assert len(batching.plan([8, 9, 12, 8], 512, 32)) == 1


def test_the_docstrings_example():
    assert [batch.tolist() for batch in batching.plan([3, 9, 4], max_tokens=10)] == [[1], [2, 0]]


@given(rows_of_ids, st.integers(-5, 5))
def test_pad_and_mask_give_back_the_rows(rows, value):
    padded, mask = batching.pad(rows, value), batching.mask(rows)
    assert padded.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert padded.dtype == mask.dtype == np.int64
    for row, line, read in zip(rows, padded, mask.astype(bool), strict=True):
        assert line[read].tolist() == row.tolist()
        assert (line[~read] == value).all()
        assert read[: len(row)].all()


@given(rows_of_ids.filter(lambda rows: any(map(len, rows))), st.integers(1, 40))
def test_padding_is_what_the_masks_of_all_batches_hide(rows, max_tokens):
    lengths = [len(row) for row in rows]
    masks = [batching.mask([rows[i] for i in batch]) for batch in batching.plan(lengths, max_tokens)]
    hidden = sum(int((mask == 0).sum()) for mask in masks) / sum(mask.size for mask in masks)
    assert batching.padding(lengths, max_tokens) == pytest.approx(hidden)


@pytest.mark.parametrize("max_tokens", [1, 10])
def test_no_rows_are_no_batches(max_tokens):
    assert batching.plan([], max_tokens) == []
