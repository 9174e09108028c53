"""Any pattern of any layout: it survives every way there and back, selection is greedy, and slot maps are what they say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_ext.ops import LAYOUTS, slot_map
from sparse_ext.ops.pattern import count_bits, largest, taken

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
regrowing = {name: layout for name, layout in LAYOUTS.items() if layout.pattern.REGROWS}


def numbers(count, highest=4):
    """So many small integers, as float32: few values make many ties."""
    return st.lists(st.integers(-highest, highest), min_size=count, max_size=count).map(lambda n: torch.tensor(n).float())


@st.composite
def scores(draw):
    """A score [rows, cols] and how many of its positions to select."""
    rows, cols = draw(st.integers(1, 6)), draw(st.integers(4, 11))
    return draw(numbers(rows * cols)).view(rows, cols), draw(st.integers(0, rows * cols))


@st.composite
def patterns(draw, kind):
    """Any pattern: the largest of some score, with up to three unused slots where a pattern may have these."""
    score, count = draw(scores())
    return kind.select(score, count, capacity=count + (draw(st.integers(0, 3)) if kind.VARIABLE else 0))


@every_layout
@given(st.data())
def test_it_survives_every_way_there_and_back(layout, data):
    kind = layout.pattern
    pattern = data.draw(patterns(kind))
    pattern.check()
    mask, at = pattern.mask(), pattern.positions()
    for again in (
        kind.of_buffers(pattern.rows, pattern.cols, pattern.buffers, mask.device),
        kind.from_mask(mask, pattern.capacity),
        pattern.resized(pattern.capacity),
    ):
        assert torch.equal(again.positions(), at)
    assert int(count_bits(pattern.bits())) == pattern.nnz == int(mask.sum()) == int((at >= 0).sum())
    dense = data.draw(numbers(mask.numel())).view_as(mask)
    values = layout.pack(dense, pattern)
    assert torch.equal(layout.unpack(values, pattern), dense.masked_fill(~mask, 0))
    assert torch.equal(layout.pack(layout.unpack(values, pattern), pattern), values)
    for other in LAYOUTS.values():  # by way of every layout that can hold it
        try:
            there = other.pattern.from_mask(mask)
        except ValueError:
            continue
        held = other.unpack(other.pack(dense.masked_fill(~mask, 0), there), there)
        assert torch.equal(taken(values, slot_map(at, there.positions()))[there.positions() >= 0], held[there.mask()])


@every_layout
@given(st.data())
def test_selection_is_greedy_and_ties_go_to_the_lower_index(layout, data):
    """The best position first, then the next best one that the layout can hold beside it."""
    kind = layout.pattern
    score, count = data.draw(scores())
    pattern = kind.select(score, count)
    order = sorted(range(score.numel()), key=lambda at: (-abs(score.view(-1)[at].item()), at))
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    for at in order if kind.REGROWS else ():
        if kind.VARIABLE and mask.sum() == count:
            break
        mask[at] = True
        try:
            kind.from_mask(mask.view_as(score), pattern.capacity)
        except ValueError:
            mask[at] = False
    assert torch.equal(pattern.mask(), mask.view_as(score) if kind.REGROWS else torch.ones_like(pattern.mask()))


@pytest.mark.parametrize("layout", regrowing.values(), ids=regrowing)
@given(st.data())
def test_a_slot_map_says_where_every_entry_was(layout, data):
    old = data.draw(patterns(layout.pattern))
    keep = data.draw(numbers(old.capacity))
    score = data.draw(
        st.one_of(numbers(old.rows * old.cols).map(lambda n: n.view(old.rows, old.cols)), st.integers(0, 2**63 - 1))
    )
    drop = data.draw(st.integers(0, old.nnz))
    grow = data.draw(st.integers(0, drop)) if old.VARIABLE else drop
    new, source = old.regrown(keep, score, drop, grow)

    new.check()
    assert (new.capacity, new.nnz) == (old.capacity, old.nnz - drop + grow)
    before, after, moved = old.positions(), new.positions(), source >= 0
    assert torch.equal(before[source[moved].long()], after[moved])
    assert source[moved].unique().numel() == int(moved.sum())  # no slot has two heirs
    assert torch.equal(moved[after >= 0], torch.isin(after, before)[after >= 0])  # what was there is not new
    values = torch.arange(1.0, old.capacity + 1)
    assert torch.equal(taken(values, source) == 0, ~moved)
    if old.VARIABLE:  # in a group of "2:4" that has no alternative, all stay
        used = before >= 0
        kept = before[used][largest(keep[used], old.nnz - drop)]
        assert torch.isin(kept, after).all()


@pytest.mark.parametrize("layout", regrowing.values(), ids=regrowing)
@given(st.data())
def test_what_is_kept_is_what_regrowth_keeps(layout, data):
    """Other positions score more than those that were dropped, so none of these comes back while there are others."""
    old = data.draw(patterns(layout.pattern))
    keep, drop = data.draw(numbers(old.capacity)), data.draw(st.integers(0, old.nnz))
    kept, before = old.kept(keep, drop), old.mask()
    new, _ = old.regrown(keep, (~before).float(), drop, drop)
    stayed = before & new.mask()
    assert not (kept & ~stayed).any()
    # Where rows are of equal length, one may have room for nothing but what it has dropped; the third of three for no two.
    free = drop <= int((~before).sum()) if old.holds_any() else not old.VARIABLE and old.cols % 4 != 3
    assert not free or torch.equal(kept, stayed)
    if old.VARIABLE:
        with pytest.raises(ValueError, match=f"drop between 0 and nnz = {old.nnz}, got {old.nnz + 1}"):
            old.kept(keep, old.nnz + 1)
