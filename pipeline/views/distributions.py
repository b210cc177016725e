"""How do uniform words become log-uniform, normal and Beta draws with the same bits on every machine?

`exp` and `log` of a C library differ in the last bit between systems, and one bit can move a crop box. Here both come
from the IEEE basic operations alone (add, multiply, divide: exact everywhere, and NumPy never fuses them), and whatever
needs more is a table of integers that is made once and looked up afterwards:

    log_uniform  exp(log low + u · (log high − log low))
    NORMAL       quantiles of the standard normal at (k + ½)/65536, as integers in 1/4096
    beta_steps   thresholds in 2^32 at which a Beta(α, α) variable passes given points: sampling is one binary search

Shapes: any, elementwise.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LN2 = 0.6931471805599453
NORMAL_ONE = 4096
"""What stands for one standard deviation in `normal_table`."""
BETA_TERMS = 600


def exp(x: Floats | float) -> Floats:
    """e^x for |x| ≤ 30 or so: a Taylor series at x/256, then eight squarings (relative error under 1e-13)."""
    y = np.asarray(x, np.float64) / 256.0
    total = np.ones_like(y)
    for n in range(9, 0, -1):
        total = 1.0 + total * (y / n)
    for _ in range(8):
        total = total * total
    return total


def log(x: Floats | float) -> Floats:
    """Natural logarithm of positive numbers: 2 artanh((m − 1)/(m + 1)) + e · ln 2 for x = m · 2^e."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    exponent = exponent - small
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = s * s, np.zeros_like(s)
    for n in range(23, 0, -2):
        total = total * square + 1.0 / n
    result: Floats = 2.0 * s * total + exponent * LN2
    return result


def log_uniform(u: Floats, low: float, high: float) -> Floats:
    """A number between `low` and `high` whose logarithm is uniform."""
    start = _log(low)
    return exp(start + u * (_log(high) - start))


@lru_cache(maxsize=64)
def _log(x: float) -> float:
    return float(log(x))


@lru_cache(maxsize=1)
def normal_table() -> NDArray[np.int16]:
    """Standard normal quantiles at (k + ½)/65536 in units of 1/4096; read-only.

    Two Newton steps from a coarse inverse leave an error of 1e-12, far below the unit that the values are rounded to.
    """
    p = (np.arange(32768, 65536) + 0.5) / 65536
    grid = np.arange(0, 4.5, 1 / 512)
    z = np.interp(p, _normal_cdf(grid), grid)
    for _ in range(2):
        z = z - (_normal_cdf(z) - p) / _normal_density(z)
    half = np.rint(z * NORMAL_ONE).astype(np.int16)
    table = np.concatenate((-half[::-1], half))
    table.flags.writeable = False
    return table


def _normal_density(z: Floats) -> Floats:
    result: Floats = exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return result


def _normal_cdf(z: Floats) -> Floats:
    """½ + φ(z) · Σ z^(2n+1)/(2n+1)!! for z ≥ 0; all terms are positive."""
    square, total = z * z, np.zeros_like(z)
    for n in range(75, 0, -1):
        total = (1.0 + total) * square / (2 * n + 1)
    result: Floats = 0.5 + _normal_density(z) * z * (1.0 + total)
    return result


def beta_cdf(x: Floats, alpha: float) -> Floats:
    """P(X ≤ x) of the symmetric Beta(α, α), from a series of positive terms scaled by its value at ½."""
    x = np.asarray(x, np.float64)
    lower = np.minimum(x, 1.0 - x)
    half = 0.5 * _beta_series(lower, alpha) / _beta_series(np.full(1, 0.5), alpha)
    return np.where(x <= 0.5, half, 1.0 - half)


def _beta_series(x: Floats, alpha: float) -> Floats:
    """B(x; α, α) up to a factor that depends on α alone, for x ≤ ½; scaled so that large α cannot underflow."""
    term, total = np.ones_like(x), np.ones_like(x)
    for n in range(BETA_TERMS):
        term = term * ((2 * alpha + n) / (alpha + 1 + n)) * x
        total = total + term
    power = exp(np.maximum(alpha * log(np.where(x > 0, 4.0 * x * (1.0 - x), 1.0)), -700.0) / 32)
    for _ in range(5):
        power = power * power
    return np.where(x > 0, power * total, 0.0)


def beta_steps(points: Floats, alpha: float) -> NDArray[np.uint64]:
    """Thresholds t such that `word < t[i]` has the probability of X ≤ points[i]; words are 32 bits wide."""
    return np.rint(beta_cdf(points, alpha) * 2.0**32).astype(np.uint64)
