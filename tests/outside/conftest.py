"""What this folder registers is there for its own tests alone."""

import ell
import momentum
import pytest

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS

ROWS = [(LAYOUTS, "ell", ell.Ell), (sx.METHODS, "sparse-momentum", momentum.SparseMomentum)]
for table, name, _ in ROWS:
    del table[name]


@pytest.fixture(autouse=True, scope="module")
def registered():
    for table, name, row in ROWS:
        table[name] = row
    yield
    for table, name, _ in ROWS:
        del table[name]
