"""95 % confidence intervals of means over repeats, by Student's t, which takes them to be normally distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log, sqrt
from statistics import NormalDist, fmean, stdev

from .record import Interval

# The t that 95 % of the distribution lie within, for 1, 2, ... degrees of freedom.
TWO_SIDED_95 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip


def critical(freedom: int) -> float:
    """Student's t for a two-sided interval of 95 %, to 1e-6.

    Beyond the table by the expansion in 1 / freedom around the normal distribution's: Abramowitz and Stegun, 26.7.5.

    Raises:
        ValueError: there is no degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"critical: expected at least 1 degree of freedom, got {freedom}")
    if freedom <= len(TWO_SIDED_95):
        return TWO_SIDED_95[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )


def mean(values: Sequence[float]) -> Interval:
    """Of the values' mean. One value has no ends.

    Raises:
        ValueError: there is no value, or one that is not finite.
    """
    if not values or not all(map(isfinite, values)):
        raise ValueError(f"mean: expected finite values, at least one, got {list(values)}")
    middle, count = fmean(values), len(values)
    if count == 1:
        return Interval(middle, None, None, count)
    half = critical(count - 1) * stdev(values) / sqrt(count)
    return Interval(middle, middle - half, middle + half, count)


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval:
    """Of the mean of value - reference, paired by seed.

    Raises:
        ValueError: the seeds differ.
    """
    return mean([value - other for value, other in _pairs(values, reference)])


def positive(one: Interval) -> Interval:
    """Of the same difference, taken the other way round where its mean is below 0."""
    if one.mean >= 0:
        return one
    low, high = (None if end is None else -end for end in (one.high, one.low))
    return Interval(-one.mean, low, high, one.count)


def ratio(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval:
    """Of the geometric mean of value / reference, paired by seed: the mean of the logarithms, exponentiated.

    Raises:
        ValueError: the seeds differ, or a value is not above 0.
    """
    pairs = _pairs(values, reference)
    if not all(value > 0 for pair in pairs for value in pair):
        raise ValueError(f"ratio: expected values above 0, got {sorted(value for pair in pairs for value in pair)[0]}")
    of_logs = mean([log(value / other) for value, other in pairs])
    low, high = (None if end is None else exp(end) for end in (of_logs.low, of_logs.high))
    return Interval(exp(of_logs.mean), low, high, of_logs.count)


def _pairs(values: Mapping[int, float], reference: Mapping[int, float]) -> list[tuple[float, float]]:
    if values.keys() != reference.keys():
        raise ValueError(f"expected the seeds {sorted(reference)}, got {sorted(values)}")
    return [(value, reference[seed]) for seed, value in values.items()]
