"""What ``init`` of the linear cells draws, and that their discretisations are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import rnnjax
from rnnjax.cells.gated_delta import DeltaInput
from rnnjax.cells.s5 import hippo_normal

KEY = jax.random.key(0)


def test_the_ring_of_an_lru():
    cell = rnnjax.LRU(4000, r_min=0.6, r_max=0.9, max_phase=0.5)
    params = cell.init(KEY, 2)
    eigenvalues = np.asarray(cell.eigenvalues(params))
    radius, phase = np.abs(eigenvalues), np.angle(eigenvalues)
    assert radius.min() >= 0.6 - 1e-6
    assert radius.max() <= 0.9 + 1e-6
    assert phase.min() >= 0
    assert phase.max() <= 0.5 + 1e-6
    # Uniform on the ring: |λ|² is uniform, and half of the area lies within its mean.
    assert np.mean(radius**2) == pytest.approx((0.36 + 0.81) / 2, abs=0.01)
    assert np.asarray(cell.input_scale(params)) == pytest.approx(np.sqrt(1 - radius**2), rel=1e-3)


def test_an_lru_starts_inside_the_unit_disc_for_all_draws():
    cell = rnnjax.LRU(4000)
    params = cell.init(KEY, 2)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(params))
    assert bool((jnp.abs(cell.eigenvalues(params)) < 1).all())


def test_hippo_n_is_the_normal_part_of_hippo_legs():
    size = 6
    n = np.arange(size)
    legs = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    normal = legs + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    eigenvalues, vectors = hippo_normal(size)
    assert np.abs(normal @ vectors - vectors * eigenvalues).max() < 1e-12
    assert (eigenvalues.imag > 0).all()


def test_s5_starts_as_hippo_n_with_real_matrices():
    """Its output is that of the real system in HiPPO-N, from the same draws."""
    cell = rnnjax.S5(3, dt_min=0.01, dt_max=0.0100001)
    params = {name: np.asarray(a, float) for name, a in cell.init(KEY, 2).items()}
    _, vectors = hippo_normal(6)
    w_x, w_y = (np.split(params["w_x"], 2, axis=1), np.split(params["w_y"], 2))
    # Back from the eigenvectors, each with its conjugate.
    b = 2 * np.real((w_x[0] + 1j * w_x[1]) @ vectors.T)
    c = 2 * np.real(vectors.conj() @ (w_y[0] + 1j * w_y[1]))
    n = np.arange(6)
    root = np.sqrt(n + 0.5)
    a = -0.5 * np.eye(6) - np.outer(root, root) * np.sign(np.subtract.outer(n, n))
    joint = scipy.linalg.expm(0.01 * np.block([[a, np.eye(6)], [np.zeros((6, 12))]]))
    xs = np.random.default_rng(0).standard_normal((20, 2))
    state, expected = np.zeros(6), []
    for x in xs:
        state = joint[:6, :6] @ state + joint[:6, 6:] @ (x @ b)
        expected.append(state @ c + params["d"] * x)
    _, ys = rnnjax.scan(cell, cell.init(KEY, 2), jnp.asarray(xs[:, None], "float32"))
    assert np.abs(np.asarray(ys[:, 0]) - np.stack(expected)).max() < 1e-5


def test_blocks_of_s5_repeat_its_eigenvalues():
    frequency = rnnjax.S5(4, blocks=2).init(KEY, 2)["frequency"]
    assert (frequency[:2] == frequency[2:]).all()


def test_what_an_rg_lru_keeps_at_least():
    cell = rnnjax.RGLRU(1000, c=4.0, a_min=0.5, a_max=0.7)
    kept = np.exp(-4.0 * np.logaddexp(0, np.asarray(cell.init(KEY, 1000)["nu"])))
    assert kept.min() >= 0.5 - 1e-5
    assert kept.max() <= 0.7 + 1e-5


def test_closed_gates_have_finite_gradients():
    for cell in (rnnjax.MinLSTM(3), rnnjax.RGLRU(3)):
        params = cell.init(KEY, 3)
        params["b"] = jnp.full_like(params["b"], -200.0)

        def loss(params, cell=cell):
            return jnp.sum(cell.step(params, jnp.ones(3), cell.encode(params, jnp.ones(3))))

        gradients = jax.grad(loss)(params)
        assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(gradients))


def test_biases_that_keep():
    assert rnnjax.MinGRU(3, update_bias=-2.0).init(KEY, 2)["b"].tolist() == [-2.0] * 3 + [0.0] * 3
    chrono = rnnjax.initializers.Chrono(100)
    b = rnnjax.MinGRU(3, update_bias=chrono).init(KEY, 2)["b"]
    assert (b[:3] < 0).all()
    b = rnnjax.MinLSTM(3, forget_bias=chrono).init(KEY, 2)["b"]
    assert (b[:3] == -b[3:6]).all()
    assert not b[6:].any()


def test_the_delta_rule_overwrites_what_it_corrects():
    """With nothing forgotten and all written, a key gives back the last value under it."""
    cell = rnnjax.GatedDelta(2, key_size=2)
    k = jnp.array([[0.6, 0.8]])
    one = jnp.ones((1,))
    state = jax.random.normal(KEY, (1, 2, 2))
    for v in (jnp.array([[1.0, 2.0]]), jnp.array([[3.0, -1.0]])):
        state = cell.step({}, state, DeltaInput(k, k, v, one, one))
        assert jnp.allclose(k[0] @ state[0], v[0], atol=1e-6)
