"""The counter-based generator: Random123's known answers, our counter layout, and what random growth makes of it."""

import pytest
import torch
from by_hand import PHILOX

from sparse_ext.ops import LAYOUTS, OPS, CsrPattern, operands_of, reference
from sparse_ext.ops.boundary import launch

OPERATOR = "regrow"  # one code for many kinds of devices, as all that is called here

M = 0xFFFFFFFF


def philox(counter, key):
    """Philox4x32-10 as in Salmon et al. 2011, table 2, on Python integers."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        low, high = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (high >> 32) ^ b ^ k0, high & M, (low >> 32) ^ d ^ k1, low & M
        k0, k1 = (k0 + 0x9E3779B9) & M, (k1 + 0xBB67AE85) & M
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "result"), PHILOX)
def test_random123_known_answers(counter, key, result):
    assert philox(counter, key) == result


@pytest.mark.parametrize(("counter", "key", "result"), PHILOX)
def test_twin_gives_the_known_answers(counter, key, result):
    low, high = (int.from_bytes(b"".join(word.to_bytes(4, "little") for word in half), "little", signed=True)
                 for half in (counter[:2], counter[2:]))  # fmt: skip
    assert reference.philox4x32(key[0] | key[1] << 32, torch.tensor([low]), high).tolist() == [list(result)]


def expected(seed, i):
    """Our layout: four neighbours share a block, whose number is the counter; the seed is the key."""
    return philox((i >> 2 & M, i >> 34, 0, 0), (seed & M, seed >> 32))[i & 3]


def test_kernel_gives_the_first_known_answer():
    assert tuple(launch._C.random_u32(0, i) for i in range(4)) == PHILOX[0][2]


@pytest.mark.parametrize("seed", [0, 1, 0x299F31D0A4093822, 2**64 - 1])
@pytest.mark.parametrize("i", [0, 1, 6, 2**32 + 3, 2**34 + 1, 2**63 + 2])
def test_kernel_counter_layout(seed, i):
    assert launch._C.random_u32(seed, i) == expected(seed, i)


@pytest.mark.parametrize("seed", [0, 7, 0x299F31D0A4093822, 2**63 - 1])
def test_twin_is_the_same_stream(seed):
    assert reference.random_u32(seed, 11).tolist() == [launch._C.random_u32(seed, i) for i in range(11)]


def test_stream_is_uniform():
    """16 bins of 65536 numbers: each within 5 standard deviations, in the high and in the low bits."""
    numbers = reference.random_u32(3, 1 << 16)
    for bits in (numbers >> 28, numbers & 15):
        counts = torch.bincount(bits, minlength=16).double()
        assert (counts - 4096).abs().max() < 5 * 62


def test_random_growth_takes_the_largest_of_the_stream(device):
    empty = torch.zeros(5, dtype=torch.int32, device=device)
    none = torch.zeros(6, dtype=torch.int32, device=device)
    row_ptr, col_idx, source = OPS["regrow"](none.float(), empty, none, 6, None, 9, 0, 6)
    stream = [(-launch._C.random_u32(9, i), i) for i in range(24)]
    pattern = CsrPattern(4, 6, row_ptr, col_idx)
    assert pattern.positions().tolist() == sorted(i for _, i in sorted(stream)[:6])
    assert (source == -1).all()


def test_random_patterns_are_spread_evenly():
    pattern = CsrPattern.random(256, 256, 6554, seed=1)
    assert pattern.nnz == 6554
    operands = operands_of(LAYOUTS["csr"], pattern)
    for counts in (operands.row_ptr.diff(), operands.col_ptr.diff()):  # binomial: 25.6 +- 4.8
        assert counts.min() >= 4
        assert counts.max() <= 50
        assert 15 < counts.double().var() < 32
    assert not torch.equal(pattern.col_idx, CsrPattern.random(256, 256, 6554, seed=2).col_idx)
    assert torch.equal(pattern.col_idx, CsrPattern.random(256, 256, 6554, seed=1).col_idx)
