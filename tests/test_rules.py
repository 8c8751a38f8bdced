"""What a step draws, and what grows with the images seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax.rules import class_weight, draw_latents, ema_decay


def test_moving_average_by_hand() -> None:
    # 100 images a step, a half-life of 1,000: a tenth of a half-life each.
    late = ema_decay(jnp.asarray(10_000), 100, 1.0)
    assert float(late) == pytest.approx(0.5**0.1, rel=1e-6)
    # After 10 steps 1,000 images are seen and the half-life is 50 of them: two half-lives.
    assert float(ema_decay(jnp.asarray(9), 100, 1.0)) == pytest.approx(0.25, rel=1e-6)
    assert float(ema_decay(jnp.asarray(9), 100, 0.0)) == 0.0


def test_class_weight_by_hand() -> None:
    seen = jnp.array([0, 1000, 1500, 2000, 9000])
    np.testing.assert_allclose(class_weight(seen, (1.0, 2.0)), [0, 0, 0.5, 1, 1])
    assert float(class_weight(seen[0], None)) == 1.0


def test_latents_have_the_distribution_that_is_asked_for() -> None:
    normal = np.asarray(draw_latents(jax.random.key(0), (20_000,)))
    heavy = np.asarray(draw_latents(jax.random.key(0), (20_000,), 5.0))
    assert np.mean(np.abs(normal) > 4) < 0.001
    # Student's t of five degrees lies beyond 4 in one of a hundred.
    assert np.mean(np.abs(heavy) > 4) == pytest.approx(0.0103, abs=0.003)
