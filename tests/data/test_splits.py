"""Laws of the stratified split."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostsearch.data.source import Source, with_splits
from ghostsearch.data.splits import held_out_count, stratified_split
from ghostsearch.errors import GhostsearchError

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=120)


@given(labels=LABELS, share=st.floats(0, 1), seed=st.integers(0, 2**31), keep=st.integers(0, 2))
def test_a_split_is_disjoint_covers_everything_takes_the_count_and_repeats(labels, share, seed, keep):
    room = {k: max(0, n - keep) for k, n in Counter(labels).items()}
    count = int(share * sum(room.values()))
    rest, taken = stratified_split(labels, count, seed, keep=keep)
    assert len(taken) == count
    assert sorted(rest + taken) == list(range(len(labels)))
    assert rest == sorted(rest)
    assert (rest, taken) == stratified_split(labels, count, seed, keep=keep)
    left = Counter(labels[i] for i in rest)
    assert all(left[k] >= min(keep, n) for k, n in Counter(labels).items())


@given(sizes=st.lists(st.integers(4, 40), min_size=1, max_size=8), seed=st.integers(0, 100))
def test_every_class_is_near_its_proportional_share(sizes, seed):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    count = len(labels) // 2
    _, taken = stratified_split(labels, count, seed)
    for label, size in enumerate(sizes):
        number = sum(labels[i] == label for i in taken)
        assert number >= 1
        assert abs(number - count * size / len(labels)) < 2


def test_another_seed_gives_another_split():
    labels = [0, 1] * 50
    assert stratified_split(labels, 20, 0) != stratified_split(labels, 20, 1)


@pytest.mark.parametrize(("labels", "count"), [([0, 1], 1), ([], 1), ([0, 0, 1, 1], 3), ([0, 0], -1)])
def test_taking_more_than_there_is_gets_one_line(labels, count):
    with pytest.raises(GhostsearchError, match=r"^cannot hold .* images; add images$|add images$"):
        stratified_split(labels, count, 0)


def test_small_sets_hold_out_a_fifth_and_large_ones_a_tenth():
    assert held_out_count(1_000) == 1_000 // 5
    assert held_out_count(50_000) == 50_000 // 10
    assert held_out_count(1) == 1


@pytest.mark.parametrize(
    ("own", "cut"),
    [
        ((), {"test", "validation"}),
        (("test",), {"validation"}),
        (("validation",), {"test"}),
        (("test", "validation"), set()),
    ],
)
def test_a_split_knows_whether_it_was_cut_from_the_training_images(own, cut):
    parts = {"train": list(range(40)), **{split: [40 + i] for i, split in enumerate(own)}}
    source = with_splits(Source([str(i) for i in range(42)], str), parts, seed=0)
    assert set(source.cut) == cut
    for split in ("test", "validation"):
        assert (set(source.splits[split]) < set(parts["train"])) == (split in cut)
