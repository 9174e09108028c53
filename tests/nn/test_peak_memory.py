"""A training step of a sparse convolution takes no more memory than a dense one's and what is packed."""

import children
import peak_memory
import pytest


@pytest.mark.slow
def test_a_step_takes_no_more_than_a_dense_one(tmp_path):
    """Output and input gradient are 51 MB each. The dense layer copies into oneDNN's formats; a column matrix is 462 MB."""
    found = {}
    for kind in ("dense", "csr"):
        children.run((peak_memory.__file__, kind, tmp_path / kind))
        found[kind] = [int(number) for number in (tmp_path / kind).read_text().split()]
    (dense, _), (sparse, packed) = found.values()
    print(f"dense {dense / 1e6:.1f} MB, sparse {sparse / 1e6:.1f} MB, packed operands {packed / 1e6:.2f} MB")
    assert sparse <= dense + packed
