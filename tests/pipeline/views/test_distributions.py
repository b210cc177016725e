"""Own elementary functions against the C library and SciPy, far inside what any draw can notice."""

import numpy as np
import pytest
from scipy import stats

from pipeline.views.distributions import NORMAL_ONE, beta_cdf, beta_steps, exp, log, log_uniform, normal_table


def test_exp_and_log():
    x = np.linspace(-30, 30, 20_001)
    assert np.abs(exp(x) / np.exp(x) - 1).max() < 1e-13
    y = np.exp(np.linspace(-50, 50, 20_001))
    assert np.abs(log(y) - np.log(y)).max() < 1e-13
    assert exp(0.0) == 1.0
    assert log(1.0) == 0.0


def test_log_uniform_covers_its_range_evenly_in_the_logarithm():
    u = np.linspace(0, 1, 1001)
    value = log_uniform(u, 3 / 4, 4 / 3)
    assert np.allclose(value, 0.75 * (16 / 9) ** u, rtol=1e-12)


def test_normal_table_is_the_rounded_quantile_function():
    exact = stats.norm.ppf((np.arange(65536) + 0.5) / 65536) * NORMAL_ONE
    assert np.array_equal(normal_table(), np.rint(exact))
    assert not normal_table().flags.writeable


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.8, 1.0, 2.0, 20.0, 100.0])
def test_beta_cdf(alpha):
    x = np.linspace(0, 1, 501)
    assert np.abs(beta_cdf(x, alpha) - stats.beta.cdf(x, alpha, alpha)).max() < 1e-11


def test_beta_steps_rise_to_certainty():
    steps = beta_steps(np.arange(1, 101) / 100, 0.4)
    assert (np.diff(steps.astype(np.int64)) > 0).all()
    assert steps[-1] == 2**32
