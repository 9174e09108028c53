"""Pairwise sampling: of a test's cases, a few in which every two values of its parameters still meet.

Nearly every fault that depends on parameters shows with one or two of them (Kuhn, Wallace and Gallo 2004, "Software Fault
Interactions and Implications for Software Testing"). A test with up to two parameters keeps all of its cases.
"""

from heapq import heapify, heappop, heappush
from itertools import combinations

import pytest


def identity(value):
    """The value as a member of sets: itself, or where it cannot be one, which object it is."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def pairs_of(case):
    """The pairs of (parameter, value) in a case {parameter: value}; of a single parameter that one."""
    values = [(name, identity(case[name])) for name in sorted(case)]
    return set(combinations(values, min(2, len(values))))


def pairwise(cases):
    """The indices of the cases to keep, ascending: always the one with the most new pairs, of equal ones the first."""
    new, seen, kept = [pairs_of(case) for case in cases], set(), []
    queue = [(-len(pairs), i) for i, pairs in enumerate(new)]
    heapify(queue)
    while queue:
        promised, i = heappop(queue)
        new[i] -= seen
        if len(new[i]) < -promised:  # by now others may have more
            heappush(queue, (-len(new[i]), i))
        elif new[i]:
            kept.append(i)
            seen |= new[i]
    return sorted(kept)


def others_slow(cases):
    """Cases (one, other) of a test that is too long for all of them: each value of `one` keeps a single `other`, of which they
    take turns; the rest are slow."""
    others = {}
    for one, other in cases:
        others.setdefault(one, []).append(other)
    kept = {(one, these[i % len(these)]) for i, (one, these) in enumerate(others.items())}
    return [pytest.param(*case, marks=[] if case in kept else pytest.mark.slow) for case in cases]
