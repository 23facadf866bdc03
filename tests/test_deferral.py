"""``Sequential(defer=True)``: what its compiled gradient does and does not do in the loop."""

import re

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.checks import as_shapes
from rnnjax.testing import largest_difference
from tests.cases import CELLS, DEFERRED, GATED, IN_DIMS, B, D, N, case

T = 11
(STRATEGY,) = DEFERRED.values()


def gradient(cell, strategy=STRATEGY, argnums=(0, 1)):
    def loss(params, xs):
        carry, ys = rnnjax.scan(cell, params, xs, strategy=strategy)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((carry, ys)))

    return jax.grad(loss, argnums)


def arguments(cell, in_dim=D):
    shape = (T, B, *as_shapes(in_dim).shape)
    return cell.init(jax.random.key(0), in_dim), jax.random.normal(jax.random.key(1), shape)


def compiled_text(function, cell) -> str:
    return jax.jit(function).lower(*arguments(cell)).compile().as_text() or ""


def loops(jaxpr):
    """The loops of a program, those inside of it too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda a: hasattr(a, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from loops(inner)


def carries(equation):
    """Shapes of what a loop hands on; what it stacks leads with T, which is no other size."""
    shapes = [v.aval.shape for v in equation.outvars]
    return [shape for shape in shapes if shape[:1] != (T,)]


@pytest.mark.parametrize("name", GATED)
def test_the_backward_loop_carries_the_cells_carry_alone(name):
    cell = CELLS[name]
    params, xs = arguments(cell, IN_DIMS.get(name, D))
    forward, backward = loops(jax.make_jaxpr(gradient(cell))(params, xs).jaxpr)
    expected = [leaf.shape for leaf in jax.tree.leaves(rnnjax.initial_carry(cell, params, B))]
    assert carries(forward) == expected
    assert carries(backward) == expected


def test_without_deferral_it_carries_the_weights_too():
    params, xs = arguments(CELLS["lstm"])
    jaxpr = jax.make_jaxpr(gradient(CELLS["lstm"], rnnjax.Sequential()))(params, xs).jaxpr
    _, backward = loops(jaxpr)
    assert (N, 4 * N) in carries(backward)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_two_loops_are_compiled(name):
    text = compiled_text(gradient(CELLS[name]), CELLS[name])
    assert len(re.findall(r"= .* while\(", text)) == 2


def test_values_alone_make_no_encoded_inputs():
    """Nothing (T, B, 4N) is computed where no derivative is asked for."""
    cell = CELLS["lstm"]
    text = compiled_text(lambda params, xs: rnnjax.scan(cell, params, xs, strategy=STRATEGY), cell)
    assert f"f32[{T},{B},{4 * N}]" not in text


@pytest.mark.parametrize("argnums", [0, 1])
def test_gradients_of_one_argument(argnums):
    cell = CELLS["gru"]
    expected = gradient(cell, rnnjax.Sequential(), argnums)(*arguments(cell))
    assert largest_difference(expected, gradient(cell, STRATEGY, argnums)(*arguments(cell))) < 1e-6


def test_update_through_a_compiled_function_of_all_params():
    """What such an update reads is looked for inside of the function."""

    class Compiled(rnnjax.GRU):
        def update(self, params, carry, u, r):
            return jax.jit(super().update)(params, carry, u, r)

    cell = Compiled(N)
    params, xs = arguments(cell)
    _, backward = loops(jax.make_jaxpr(gradient(cell))(params, xs).jaxpr)
    assert carries(backward) == [(B, N)]


def test_a_matrix_that_update_reads():
    """It is no vector, so its gradient is added up in the loop, and right."""

    class Squared(rnnjax.Elman):
        def update(self, params, carry, u, r):
            return super().update(params, carry, u, r + carry**2 @ params["w_h"])

    cell = Squared(N)
    expected = gradient(cell, rnnjax.Sequential())(*arguments(cell))
    assert largest_difference(expected, gradient(cell)(*arguments(cell))) < 1e-6


def test_an_update_that_adds_u_to_r_and_also_keeps_it():
    """Then one cotangent cannot serve both."""

    class Keeping(rnnjax.Elman):
        def initial_carry(self, params):
            return super().initial_carry(params), jnp.zeros((N,))

        def hidden(self, carry):
            return carry[0]

        def update(self, params, carry, u, r):
            return super().update(params, carry[0], u, r), u

        def readout(self, params, carry, u):
            return carry[0] + carry[1]

    cell = Keeping(N)
    expected = gradient(cell, rnnjax.Sequential())(*arguments(cell))
    assert largest_difference(expected, gradient(cell)(*arguments(cell))) < 1e-6


@pytest.mark.parametrize(
    "strategy", [STRATEGY, rnnjax.Chunked(inside=rnnjax.Sequential(defer=True))]
)
def test_a_plain_cell_is_refused(strategy):
    c = case("gru_reset_before")
    for cell, params in (
        (c.cell, c.params),
        (rnnjax.Stack((rnnjax.Stack((c.cell,)),)), {"layers": ({"layers": (c.params,)},)}),
    ):
        with pytest.raises(ValueError, match=r"cannot run GRUResetBefore|needs a gated cell"):
            rnnjax.scan(cell, params, jnp.ones((T, B, D)), strategy=strategy)


MERGED = rnnjax.Sequential(defer=True, merge=True)


@pytest.mark.parametrize("strategy", [rnnjax.Sequential(merge=True), MERGED])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_merged_products_agree(name, strategy):
    """With masks and resets, in gradients and gradients of gradients."""
    cell = CELLS[name]
    mask, resets = jax.random.bernoulli(jax.random.key(2), 0.6, (2, T, B))

    def loss(params, xs, strategy):
        options = {"mask": mask, "resets": resets, "strategy": strategy}
        carry, ys = rnnjax.scan(cell, params, xs, **options)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((carry, ys)))

    def of_gradient(params, xs, strategy):
        gradient = jax.grad(loss)(params, xs, strategy)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(gradient))

    function = jax.jit(jax.value_and_grad(of_gradient, (0, 1)), static_argnums=2)
    expected = function(*arguments(cell), rnnjax.Sequential())
    assert largest_difference(expected, function(*arguments(cell), strategy)) < 1e-5


def products(cell, strategy):
    """Shapes of the products in each loop of the gradient."""
    found = loops(jax.make_jaxpr(gradient(cell, strategy))(*arguments(cell)).jaxpr)
    return [
        [e.outvars[0].aval.shape for e in equations(loop.params["jaxpr"].jaxpr) if is_product(e)]
        for loop in found
    ]


def is_product(equation):
    return equation.primitive.name == "dot_general"


def equations(jaxpr):
    """The equations of a program, those inside of others too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda a: hasattr(a, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_merged_products_are_one_a_step():
    """And the backward loop takes that of h alone."""
    assert products(CELLS["lstm"], STRATEGY) == [[(B, 4 * N)] * 2, [(B, N)]]
    assert products(CELLS["lstm"], MERGED) == [[(B, 4 * N)], [(B, N)]]


def test_a_product_of_matrices_is_left_apart():
    """Of x (D, K) a row, whose axes could be taken for those of a vector and a matrix."""

    class Turned(rnnjax.Elman):
        def encode(self, params, x):
            return jnp.einsum("dk,dm->km", x, params["w_x"])[0] + params["b"]

        def input_shapes(self, params):
            return None

    cell = Turned(N)
    params, xs = cell.init(jax.random.key(0), 5), jax.random.normal(jax.random.key(1), (T, B, 5, 5))
    merged, plain = (
        rnnjax.scan(cell, params, xs, strategy=strategy)[1]
        for strategy in (rnnjax.Sequential(merge=True), rnnjax.Sequential())
    )
    assert largest_difference(plain, merged) < 1e-6


def test_what_is_no_dense_product_is_left_apart():
    class Scaled(rnnjax.LSTM):
        def encode(self, params, x):
            return jnp.tanh(super().encode(params, x))

    cell = Scaled(N)
    assert products(cell, MERGED) == products(cell, STRATEGY)
    expected = gradient(cell, rnnjax.Sequential())(*arguments(cell))
    assert largest_difference(expected, gradient(cell, MERGED)(*arguments(cell))) < 1e-6
