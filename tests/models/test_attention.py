from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.attention import causal_mask, rotary_frequencies, rotate, rotation
from smf_jax.models.config import RopeScaling
from tests.models.tiny import PLAIN


def test_rotated_products_depend_on_the_distance_only():
    config = replace(PLAIN, head_width=8)
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 8)).astype(np.float32)

    def product(query_position: int, key_position: int) -> float:
        turned = rotation(config, jnp.array([[query_position, key_position]]))
        both = np.asarray(rotate(jnp.array([query, key])[None, :, None], turned))
        return float(both[0, 0, 0] @ both[0, 1, 0])

    assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-5)
    assert product(3, 3) == pytest.approx(float(query @ key), abs=1e-5)
    assert abs(product(9, 4) - product(9, 6)) > 1e-2


def test_rotation_matches_complex_multiplication():
    config = replace(PLAIN, head_width=6, rope_theta=100.0)
    x = np.random.default_rng(1).standard_normal((1, 4, 2, 6)).astype(np.float32)
    positions = np.array([[0, 1, 5, 30]])
    turned = np.asarray(rotate(jnp.asarray(x), rotation(config, jnp.asarray(positions))))
    angles = positions[0][:, None] * 100.0 ** (-np.arange(0, 6, 2) / 6)
    expected = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)[None, :, None]
    np.testing.assert_allclose(turned[..., :3], expected.real, atol=2e-6)
    np.testing.assert_allclose(turned[..., 3:], expected.imag, atol=2e-6)


def test_llama3_scaling_follows_its_three_regimes():
    scaling = RopeScaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_positions=128
    )
    plain = replace(PLAIN, head_width=64, rope_theta=500.0)
    kept = rotary_frequencies(plain).astype(np.float64)
    expected, regimes = [], set()
    for frequency in kept:
        wavelength = 2 * np.pi / frequency
        if wavelength < 128 / 4.0:
            expected.append(frequency)
            regimes.add("short")
        elif wavelength > 128 / 1.0:
            expected.append(frequency / 8.0)
            regimes.add("long")
        else:
            blend = (128 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append((1 - blend) * frequency / 8.0 + blend * frequency)
            regimes.add("between")
    assert regimes == {"short", "between", "long"}
    scaled = rotary_frequencies(replace(plain, rope_scaling=scaling))
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)


def test_mask_hides_the_future_and_the_pads():
    valid = np.array([[True, True, True], [False, True, True]])
    expected = [
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
        [[0, 0, 0], [0, 1, 0], [0, 1, 1]],
    ]
    np.testing.assert_array_equal(causal_mask(jnp.asarray(valid), 0, 3), np.array(expected, bool))
    np.testing.assert_array_equal(
        causal_mask(jnp.asarray(valid), 1, 1), np.array(expected, bool)[:, 1:2]
    )
