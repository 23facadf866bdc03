"""Noise of wrappers: its mean, its reproducibility, and where it reaches."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.cell import feed

DRAWS = 2000
X = jnp.array([1.0, -2.0, 3.0])
GRU = rnnjax.GRU(6)
PARAMS = GRU.init(jax.random.key(0), 3)


def test_dropout_in_evaluation_is_the_mean_over_noise():
    cell = rnnjax.Dropout(GRU, rate=0.3)
    keys = jax.random.split(jax.random.key(1), DRAWS)
    us = jax.vmap(lambda key: cell.encode(PARAMS, feed(cell, rnnjax.Keyed(X, key))))(keys)
    assert jnp.allclose(us.mean(0), cell.encode(PARAMS, X), atol=0.15)
    assert us.std(0).min() > 0.1


def test_variational_dropout_in_evaluation_is_the_mean_over_masks():
    cell = rnnjax.VariationalDropout(GRU, 0.3, 0.2)
    noise = rnnjax.sequence_noise(jax.random.key(1), cell, PARAMS, DRAWS)
    assert sorted(set(noise["dropout"].h.ravel().tolist())) == [0.0, 1.25]
    h = jnp.linspace(-1.0, 1.0, 6)

    def parts(context):
        p = {**PARAMS, "context": context}
        u = cell.encode(p, X)
        return u, cell.gated().mix(p, h, u)

    u, r = jax.vmap(parts)(noise)
    assert jnp.allclose(u.mean(0), cell.encode(PARAMS, X), atol=0.15)
    assert jnp.allclose(r.mean(0), GRU.gated().mix(PARAMS, h, None), atol=0.05)
    again = rnnjax.sequence_noise(jax.random.key(1), cell, PARAMS, DRAWS)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), noise, again))


def test_drop_connect_in_evaluation_is_the_mean_over_draws_and_touches_nothing_else():
    params = {"params": {"rnn": PARAMS}, "head": jnp.ones((2,))}
    keys = jax.random.split(jax.random.key(1), DRAWS)
    dropped = jax.vmap(lambda key: rnnjax.drop_connect(key, params, 0.5))(keys)
    w = dropped["params"]["rnn"].pop("w_h")
    assert jnp.allclose(w.mean(0), PARAMS["w_h"], atol=0.1)
    share = float((w == 0).mean())
    assert abs(share - 0.5) < 0.01
    whole = {
        "params": {"rnn": {k: v for k, v in PARAMS.items() if k != "w_h"}},
        "head": jnp.ones(2),
    }
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: bool((a == b).all()), whole, jax.tree.map(lambda a: a[0], dropped)
        )
    )


def test_what_drop_connect_drops_has_no_gradient():
    gradient = jax.grad(lambda p: rnnjax.drop_connect(jax.random.key(1), p, 0.5)["w_h"].sum())(
        PARAMS
    )
    dropped = rnnjax.drop_connect(jax.random.key(1), PARAMS, 0.5)["w_h"] == 0
    assert bool(((gradient["w_h"] == 0) == dropped).all())


def test_layers_draw_masks_of_their_own():
    layers = (rnnjax.VariationalDropout(GRU), rnnjax.VariationalDropout(GRU, name="upper"))
    stack = rnnjax.Stack(layers)
    noise = rnnjax.sequence_noise(jax.random.key(1), stack, stack.init(jax.random.key(0), 3), 2)
    assert noise["dropout"].x.shape == (2, 3)
    assert noise["upper"].x.shape == (2, 6)


def test_a_learnt_carry_has_a_gradient():
    cell = rnnjax.LearntCarry(GRU)
    params = cell.init(jax.random.key(0), 3)
    xs = jnp.ones((2, 1, 3))
    loss = lambda p: rnnjax.scan(cell, p, xs)[1].sum()  # noqa: E731
    assert bool(jax.grad(loss)(params)["learnt_carry"].all())


def noise_of(cell, params=PARAMS):
    return rnnjax.sequence_noise(jax.random.key(0), cell, params, 2)


TWICE = rnnjax.Stack((rnnjax.VariationalDropout(GRU), rnnjax.VariationalDropout(GRU)))
ERRORS = {
    "dropout rate": (lambda: rnnjax.Dropout(GRU, 1.0), r"Dropout: rate must be a prob"),
    "input rate": (lambda: rnnjax.VariationalDropout(GRU, -0.1), r"input_rate must be a prob"),
    "hidden rate": (lambda: rnnjax.VariationalDropout(GRU, 0, 1.0), r"hidden_rate must be a prob"),
    "drop_connect rate": (
        lambda: rnnjax.drop_connect(jax.random.key(0), PARAMS, 1.5),
        r"drop_connect: rate must be a prob",
    ),
    "no such kernel": (
        lambda: rnnjax.drop_connect(jax.random.key(0), {"w": X}, 0.5),
        r"params must have a leaf 'w_h'; these have \['w'\]",
    ),
    "nested twice": (
        lambda: rnnjax.Zoneout(rnnjax.Residual(rnnjax.Zoneout(GRU))),
        r"Zoneout: cell must not hold another Zoneout",
    ),
    "residual twice": (
        lambda: rnnjax.Stack((GRU, rnnjax.Residual(GRU)), residual=True),
        r"Residual: cell must not hold another",
    ),
    "not gated": (
        lambda: rnnjax.VariationalDropout(rnnjax.GRUResetBefore(4)),
        r"hidden_rate must be 0 for a cell that is not gated",
    ),
    "one name for two layers": (
        lambda: noise_of(TWICE, TWICE.init(jax.random.key(0), 3)),
        r"'dropout' is drawn again by layer 1",
    ),
    "mask of another width": (
        lambda: rnnjax.scan(
            rnnjax.VariationalDropout(GRU),
            PARAMS,
            jnp.ones((2, 2, 3)),
            context={"dropout": rnnjax.DropoutMasks(jnp.ones((2, 4)), None)},
        ),
        r"context\['dropout'\].x must have a row \(3,\)",
    ),
    "highway of another width": (
        lambda: rnnjax.scan(
            rnnjax.Highway(GRU),
            rnnjax.Highway(GRU).init(jax.random.key(0), 3),
            jnp.ones((2, 2, 3)),
        ),
        r"the input must have the shape of the output, \(6,\); got \(3,\)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_named(case):
    call, words = ERRORS[case]
    with pytest.raises(ValueError, match=words):
        call()
