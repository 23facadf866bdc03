"""Cells × strategies: one program a pair, against float64 plain loops."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.array_typing import Carry, Params, PyTree
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, check_cell, largest_difference
from tests.cases import (
    CELLS,
    CONTRACT,
    DEFERRED,
    FUSED,
    FUSIBLE,
    GATED,
    IN_DIMS,
    LINEAR,
    OPTIONS,
    PARALLEL,
    REPRESENTATIVES,
    RUNNERS,
    STRATEGIES,
    Case,
    case,
    everything,
    oracle,
    skip_without_compiler,
)


def compiled(
    c: Case, strategy: Any, compiler_options: dict[str, Any] | None = FAST_COMPILATION
) -> Callable[[], tuple]:
    """Return ``everything`` as one program."""
    arrays = (c.params, c.xs, c.carry, c.mask, c.lengths, c.resets, c.context)
    scan = functools.partial(rnnjax.scan, strategy=strategy)
    program = jax.jit(
        lambda *a: everything(Case(c.cell, *a), scan), compiler_options=compiler_options
    )
    return functools.partial(program, *arrays)


def run(c: Case, strategy: Any) -> tuple:
    """Run ``everything`` as one program."""
    return compiled(c, strategy)()


PAIRS = [(cell, strategy) for cell in CELLS.keys() - CONTRACT - set(LINEAR) for strategy in RUNNERS]
PAIRS += [(cell, "sequential") for cell in CONTRACT]
PAIRS += [(cell, strategy) for cell in set(GATED) - set(CONTRACT) for strategy in DEFERRED]
PAIRS += [(cell, strategy) for cell in set(FUSIBLE) - set(CONTRACT) for strategy in FUSED]
PAIRS += [(cell, "associative") for cell in LINEAR]
PAIRS += [("gated_delta", "associative_block")]
PAIRS += [(cell, strategy) for cell in REPRESENTATIVES for strategy in OPTIONS]


@pytest.mark.parametrize(("cell", "strategy"), sorted(PAIRS))
def test_values_carries_and_gradients_agree_with_plain_loops(cell, strategy):
    skip_without_compiler(strategy)
    results, gradients = run(case(cell), (STRATEGIES | PARALLEL)[strategy])
    expected, expected_gradients = oracle(cell)
    for name, expected_result in expected.items():
        assert largest_difference(expected_result, results[name]) < TOLERANCE["float32"], name
    assert largest_difference(expected_gradients, gradients) < TOLERANCE["float32"]


@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_equals_scan(cell):
    c = case(cell)
    mask = c.mask & (jnp.arange(c.mask.shape[0])[:, None] < c.lengths[None])

    def both_ways(params: Params, xs: PyTree, carry: Carry) -> tuple[tuple, tuple]:
        options = {"mask": c.mask, "lengths": c.lengths, "resets": c.resets, "context": c.context}
        whole = rnnjax.scan(c.cell, params, xs, carry, **options)
        ys = []
        for t in range(c.mask.shape[0]):
            x = jax.tree.map(lambda a, t=t: a[t], xs)
            options = {"mask": mask[t], "reset": c.resets[t], "context": c.context}
            carry, y = rnnjax.step(c.cell, params, x, carry, **options)
            ys.append(y)
        return whole, (carry, jax.tree.map(lambda *y: jnp.stack(y), *ys))

    whole, stepped = jax.jit(both_ways, compiler_options=FAST_COMPILATION)(c.params, c.xs, c.carry)
    assert largest_difference(whole, stepped) < TOLERANCE["float32"]


@pytest.mark.parametrize("cell", ["zoneout", "stack"])
def test_in_reverse_the_later_part_comes_first(cell):
    c = case(cell)
    k = c.mask.shape[0] // 2
    valid = c.mask & (jnp.arange(c.mask.shape[0])[:, None] < c.lengths[None])
    # Neither part sees a boundary between them, so there is none here.
    resets = c.resets.at[k].set(False)

    def part(s: slice, carry: Carry) -> tuple:
        xs = jax.tree.map(lambda a: a[s], c.xs)
        options = {"mask": valid[s], "resets": resets[s], "context": c.context, "reverse": True}
        return rnnjax.scan(c.cell, c.params, xs, carry, **options)

    middle, late = part(slice(k, None), c.carry)
    last, early = part(slice(0, k), middle)
    joined = last, jnp.concatenate([early, late])
    assert largest_difference(part(slice(None), c.carry), joined) < TOLERANCE["float32"]


@pytest.mark.parametrize("strategy", RUNNERS | DEFERRED | FUSED)
def test_one_step(strategy):
    skip_without_compiler(strategy)
    c = case("zoneout", time=1)

    def one(strategy: rnnjax.Strategy) -> tuple:
        options = {"mask": c.mask, "lengths": c.lengths, "resets": c.resets}
        return rnnjax.scan(c.cell, c.params, c.xs, c.carry, strategy=strategy, **options)

    got = one(STRATEGIES[strategy])
    assert largest_difference(one(rnnjax.Sequential()), got) < TOLERANCE["float32"]


def test_a_tuple_of_strategies_gives_each_layer_its_own():
    c = case("stack")
    strategies = (rnnjax.Chunked(2), rnnjax.Sequential(hoist=True), rnnjax.Unrolled())
    reference = run(c, rnnjax.Sequential())
    assert largest_difference(reference, run(c, strategies)) < TOLERANCE["float32"]


@pytest.mark.parametrize("cell", ["stack", "stack_residual"])
def test_layer_by_layer_equals_one_cell(cell):
    c = case(cell)
    # A wrapper around a stack says nothing of layers, so it runs as one cell.
    one_cell = dataclasses.replace(c, cell=rnnjax.Wrapper(c.cell))
    reference, got = (run(each, rnnjax.Sequential()) for each in (c, one_cell))
    assert largest_difference(reference, got) < TOLERANCE["float32"]


def test_default_chunks():
    c = case("zoneout", time=12)
    reference = run(c, rnnjax.Sequential())
    assert largest_difference(reference, run(c, rnnjax.Chunked())) < TOLERANCE["float32"]


def test_no_steps_give_back_the_carry_and_empty_outputs():
    c = case("stack")
    xs = jax.tree.map(lambda a: a[:0], c.xs)
    for strategy in RUNNERS.values():
        carry, ys = rnnjax.scan(c.cell, c.params, xs, c.carry, context=c.context, strategy=strategy)
        assert largest_difference(carry, c.carry) == 0
        assert ys.shape == (0, 4, 9)


@pytest.mark.parametrize("name", ["lstm", "stack", "attend"])
def test_the_initial_carry_is_what_no_carry_stands_for(name):
    c = case(name)
    xs = jax.tree.map(lambda a: a[:0], c.xs)
    expected, _ = rnnjax.scan(c.cell, c.params, xs, context=c.context)
    found = rnnjax.initial_carry(c.cell, c.params, 4, context=c.context)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert largest_difference(found, expected) == 0


def test_an_empty_batch():
    cell = CELLS["zoneout"]
    params = cell.init(jax.random.key(1), 3)
    for strategy in RUNNERS.values():
        carry, ys = rnnjax.scan(cell, params, jnp.zeros((3, 0, 3)), strategy=strategy)
        assert carry.c.shape == (0, 5)
        assert ys.shape == (3, 0, 5)


def test_length_zero_gives_back_what_was_passed_in():
    c = case("lstm")
    carry, ys = rnnjax.scan(c.cell, c.params, c.xs, c.carry, lengths=c.lengths)
    assert largest_difference(carry.c[0], c.carry.c[0]) == 0
    assert not ys[:, 0].any()


def test_no_nan_crosses_a_reset():
    c = case("lstm")
    xs = jnp.nan_to_num(c.xs)
    spoilt = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), c.carry)
    resets = jnp.zeros(c.resets.shape, bool).at[0].set(True)
    for strategy in RUNNERS.values():
        carry, ys = rnnjax.scan(c.cell, c.params, xs, spoilt, resets=resets, strategy=strategy)
        assert bool(jnp.isfinite(ys).all())
        assert bool(jnp.isfinite(carry.c).all())


def test_the_same_run_twice_is_the_same_bit_for_bit():
    c = case("stack")
    for strategy in (rnnjax.Sequential(), rnnjax.Chunked()):
        program = compiled(c, strategy, compiler_options=None)
        assert largest_difference(program(), program()) == 0


@pytest.mark.parametrize("cell", ["elman", "variational_dropout", *CONTRACT, "lru"])
@pytest.mark.slow
def test_the_contract(cell):
    check_cell(CELLS[cell], jax.random.key(1), IN_DIMS.get(cell, 3))
