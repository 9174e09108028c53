"""Pairwise sampling of cases: few of them, and every pair of values."""

from itertools import product

import pytest
from sampling import others_slow, pairs_of, pairwise


@pytest.mark.parametrize("sizes", [(3,), (2, 5), (2, 2, 2), (4, 3, 3), (7, 6, 3, 2)])
def test_every_pair_in_few_cases(sizes):
    names = "abcd"
    cases = [dict(zip(names, values, strict=False)) for values in product(*map(range, sizes))]
    kept = [cases[i] for i in pairwise(cases)]
    assert set().union(*map(pairs_of, kept)) == set().union(*map(pairs_of, cases))
    largest, second, *_ = *sorted(sizes, reverse=True), 1
    assert largest * second <= len(kept) <= largest * second * 1.5
    if len(sizes) < 3:
        assert kept == cases


def test_by_hand():
    """Three switches: of the eight cases four meet all twelve pairs."""
    cases = [{"a": a, "b": b, "c": c} for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert pairwise(cases) == [0, 3, 5, 6]


def test_values_without_a_hash():
    one, other = [1], [1]
    cases = [{"a": one, "b": 0, "c": 0}, {"a": other, "b": 0, "c": 0}, {"a": one, "b": 0, "c": 0}]
    assert pairwise(cases) == [0, 1]


def test_what_has_no_parameters_stays():
    assert pairwise([{}]) == [0]


def test_others_are_slow():
    """Two others take turns: a keeps the first, b the second, c, which has one alone, that."""
    cases = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 2)]
    found = others_slow(cases)
    assert [tuple(one.values) for one in found] == cases
    assert [tuple(one.values) for one in found if not one.marks] == [("a", 1), ("b", 2), ("c", 2)]
