"""Two of four sampled at random: the paper's mean and variance, what decides the numbers, and what is not sampled."""

import pytest
import torch
from cases import expected

from sparse_ext.ops import OPS, reference

mvue, prune = OPS["nm24_mvue"], OPS["nm24_prune"]
inf, nan = float("inf"), float("nan")


def rng_at(device, seed=20240401, offset=0):
    return torch.tensor([seed, offset], device=device)


def bits(tensors):
    return [tensor.cpu().contiguous().view(torch.uint8) for tensor in tensors]


def assert_same_bits(got, want):
    assert all(torch.equal(a, b) for a, b in zip(bits(got), bits(want), strict=True))


# tokens, rows: of one and of several blocks, ragged in every way
SHAPES = [
    (1, 1),
    (2, 3),
    (3, 9),
    (4, 4),
    (5, 130),
    (9, 33),
    (12, 31),
    (66, 64),
    (97, 1),
    (127, 129),
    (130, 7),
    (261, 33),
    (0, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_bit_is_the_twins(shape, device, dtype):
    """Of numbers of all sizes, a third of them 0, neighbours often equal."""
    dy = (torch.randn(shape, dtype=torch.float64) * 4).round() / 4 * 2.0 ** torch.randint(-12, 3, shape)
    dy = dy.to(device, dtype)
    rng = rng_at(device, -(2**40) - 3, 2**33 + 1)
    want = expected("nm24_mvue", (dy, rng.cpu().clone()))
    assert_same_bits(mvue(dy, rng), want)
    assert rng.tolist() == [-(2**40) - 3, 2**33 + 2]


# ---- mean and variance -----------------------------------------------------------------------------------------------

TOKENS, ROWS = 256, 3125
SAMPLES = TOKENS // 4 * ROWS  # 200,000
GROUPS = {
    "random": lambda info: (0.37, -1.25, 0.8125, 0.125),
    "equal": lambda info: (1.5, 1.5, -1.5, 1.5),
    "tied": lambda info: (2.0, -2.0, 0.5, 0.5),
    "one dominant": lambda info: (3.0, -1000.0, 1.0, 2.0),
    "three": lambda info: (0.5, 0.0, -1.0, 2.0),
    "two": lambda info: (0.0, 0.3, -0.0, -0.7),
    "one": lambda info: (0.0, 0.0, 0.0, -0.7),
    "denormal": lambda info: tuple(n * info.smallest_normal * info.eps for n in (100, 37, -61, 83)),
    "huge": lambda info: tuple(n * info.max for n in (0.5, -0.375, 0.25, 0.125)),
}


def probabilities(x):
    """Of the paper, to the letter."""
    a, total = x.abs(), x.abs().sum()
    t = a / total
    return torch.stack([t[i] + a[i] * sum(t[j] / (total - a[j]) for j in range(4) if j != i) for i in range(4)])


@pytest.mark.parametrize("name", GROUPS)
def test_mean_and_variance_are_the_papers(name, device, dtype):
    info = torch.finfo(dtype)
    group = torch.tensor(GROUPS[name](info), dtype=torch.float64).to(dtype)
    largest = group.double().abs().max()  # the unit below: squares of huge numbers are none
    x = group.double() / largest
    dy = group.to(device).repeat(TOKENS // 4)[:, None].expand(TOKENS, ROWS)
    values_t, ids_t = (tensor.cpu() for tensor in mvue(dy, rng_at(device)))
    sampled = reference.nm24_unpack(values_t.double(), ids_t, TOKENS).view(SAMPLES, 4) / largest

    p = probabilities(x) if (x != 0).sum() > 2 else (x != 0).double()
    rounding = 4 * info.eps + info.smallest_normal * info.eps / largest
    assert ((sampled - x / p).abs() <= rounding)[sampled != 0].all()
    chance = (p * (1 - p)).clamp(min=0)
    sigma = (chance / SAMPLES).sqrt()
    assert (((sampled != 0).double().mean(0) - p).abs() <= 3 * sigma)[x != 0].all()
    assert ((sampled.mean(0) - x).abs() <= 3 * sigma * (x / p).abs().nan_to_num() + rounding).all()
    assert (sampled.var(0) <= (x / p).nan_to_num() ** 2 * (chance + 3 * sigma) + rounding**2).all()
    assert (sampled[:, x == 0] == 0).all()


# ---- what decides the numbers -----------------------------------------------------------------------------------------


def test_a_sample_can_be_repeated_and_the_next_one_is_another(device, dtype):
    dy = torch.randn(64, 40, dtype=torch.float64).to(device, dtype)
    rng = rng_at(device)
    first, second = mvue(dy, rng), mvue(dy, rng)
    assert rng.tolist() == [20240401, 2]
    assert_same_bits(first, mvue(dy, rng_at(device)))
    assert_same_bits(second, mvue(dy, rng_at(device, offset=1)))
    for other in (second, mvue(dy, rng_at(device, seed=20240402))):
        changed = (first[1] != other[1]).double().mean()  # of two independent samples a byte is the same once in some 20
        assert changed > 0.5


def test_a_group_is_sampled_by_its_place_alone(device, dtype):
    """Of fewer tokens or rows the first are the same: nobody else's numbers matter, nor how many there are."""
    dy = torch.randn(72, 40, dtype=torch.float64).to(device, dtype)
    whole = mvue(dy, rng_at(device))
    assert_same_bits(mvue(dy[:32].contiguous(), rng_at(device)), (whole[0][:, :16], whole[1][:, :4]))
    assert_same_bits(mvue(dy[:, :7].contiguous(), rng_at(device)), (whole[0][:7], whole[1][:7]))


def test_neighbours_are_sampled_independently(device):
    """Equal numbers everywhere: each of the six pairs is as frequent as any other, whatever its neighbours have."""
    _, ids = mvue(torch.ones(256, 512, device=device), rng_at(device))
    codes = torch.stack([ids & 15, ids >> 4], -1).flatten(1).cpu()
    number = torch.full((16,), -1).index_copy(0, torch.tensor([4, 8, 9, 12, 13, 14]), torch.arange(6))[codes.long()]
    for a, b in ((number[:, 1:], number[:, :-1]), (number[1:], number[:-1])):
        counts = torch.bincount((6 * a + b).flatten(), minlength=36).double()
        mean = counts.sum() / 36
        assert (counts - mean).abs().max() < 5 * mean.sqrt()


# ---- what is not sampled -----------------------------------------------------------------------------------------------

AS_THEY_ARE = [
    (0.0, 0.0, 0.0, 0.0), (-0.0, -0.0, -0.0, -0.0), (0.0, 0.0, 5.0, 0.0), (-0.0, 0.0, -3.0, 4.0), (1.0, 2.0, 0.0, -0.0),
    (inf, 1.0, 2.0, 3.0), (1.0, 2.0, 3.0, -inf), (nan, 1.0, 2.0, 3.0), (1.0, nan, inf, 2.0), (inf, -inf, nan, 1.0),
    (nan, nan, nan, nan), (inf, inf, inf, 0.0), (0.0, 0.0, 0.0, nan), (1.0, 2.0**-65, 0.0, -(2.0**-66)),
]  # fmt: skip


def test_what_is_kept_as_it_is(device, dtype):
    groups = torch.tensor(AS_THEY_ARE, dtype=dtype).to(device)
    got = mvue(groups.t().contiguous(), rng_at(device))
    torch.testing.assert_close(got, prune(groups, "largest"), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got[0].isfinite().all(1), groups.isfinite().all(1))


def test_non_finite_values_stay_in_their_group(device, dtype):
    dy = torch.randn(40, 9, dtype=torch.float64).to(device, dtype)
    clean, _ = mvue(dy, rng_at(device))
    dy[13, 4], dy[39, 8] = nan, -inf
    spoiled, _ = mvue(dy, rng_at(device))
    changed = (clean != spoiled).view(9, 10, 2).any(-1)
    assert changed.nonzero().tolist() == [[4, 3], [8, 9]]
    assert spoiled[4, 6:8].isnan().any()
    assert (spoiled[8, 18:] == -inf).any()


BAD = {
    "a vector": (lambda: mvue(torch.zeros(4), rng_at("cpu")), ValueError, r"dy with 2 dimensions, got shape \(4,\)"),
    "integers": (lambda: mvue(torch.zeros(4, 4).int(), rng_at("cpu")), TypeError, "dy of dtype .*, got torch.int32"),
    "an rng of floats": (lambda: mvue(torch.zeros(4, 4), torch.zeros(2)), TypeError, "rng .*int64, got torch.float32"),
    "an rng of one": (
        lambda: mvue(torch.zeros(4, 4), rng_at("cpu")[:1]),
        ValueError,
        r"rng \(2,\) on cpu .*got \(1,\) on cpu",
    ),
    "an rng elsewhere": (
        lambda: mvue(torch.zeros(4, 4), rng_at("meta")),
        ValueError,
        r"rng on cpu \(as dy\), got meta",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_sentence(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=f"^nm24_mvue: expected {message}"):
        call()
