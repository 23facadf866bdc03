"""``Associative(axis_name=…)``: a sequence over 8 virtual devices, and what is refused on one."""

import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import rnnjax
from rnnjax.testing import largest_difference

CELL = rnnjax.MinGRU(4)
PARAMS = CELL.init(jax.random.key(0), 3)
XS = jax.random.normal(jax.random.key(1), (6, 2, 3))
STRATEGY = rnnjax.Associative(axis_name="time")


def test_a_sequence_over_eight_devices():
    result = subprocess.run(
        [sys.executable, "-m", "tests.sequence_sharding"],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert lines == ["values"] * 5 + ["collectives"] * 3


PARTS = P("time")


def on_mesh(xs=XS, specs=PARTS, cell=CELL, params=PARAMS, carry=None, **options):
    """Scan on a mesh of one device; ``specs`` are those of xs."""
    options = {"strategy": STRATEGY} | options
    check_vma = options.pop("check_vma", True)
    carry_spec = options.pop("carry_spec", P())
    mesh = jax.make_mesh((1,), ("time",), axis_types=(AxisType.Auto,))
    run = functools.partial(rnnjax.scan, cell, **options)
    in_specs = (P(), specs, carry_spec)
    mapped = jax.shard_map(
        run, mesh=mesh, in_specs=in_specs, out_specs=(P(), P("time")), check_vma=check_vma
    )
    return mapped(params, xs, carry)


def test_one_device_and_two_layers():
    stack = rnnjax.Stack((CELL, rnnjax.MinLSTM(4)))
    params = stack.init(jax.random.key(0), 3)
    strategies = (STRATEGY, rnnjax.Associative(block=4, axis_name="time"))
    lengths = jnp.array([6, 2])
    got = on_mesh(cell=stack, params=params, strategy=strategies, lengths=lengths)
    expected = rnnjax.scan(stack, params, XS, lengths=lengths)
    assert largest_difference(expected, got) < 1e-6


def whole(cell=CELL, params=PARAMS, **options):
    return rnnjax.scan(cell, params, XS, **options)


GRU = rnnjax.GRU(4)
TWO = rnnjax.Stack((CELL, CELL))
BOTH = rnnjax.init_bidirectional((CELL, CELL), (CELL, CELL), jax.random.key(0), 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: whole(strategy=STRATEGY),
            r"scan: a strategy with axis_name='time' must run inside of jax.shard_map over a mesh "
            r"that has the axis 'time'; there is none here. Without axis_name",
        ),
        (
            lambda: on_mesh(strategy=rnnjax.Associative(axis_name="tome")),
            "must run inside of jax.shard_map over a mesh that has the axis 'tome'",
        ),
        (lambda: on_mesh(check_vma=False), "inside of jax.shard_map with check_vma=True"),
        (
            lambda: on_mesh(specs=P()),
            r"axis_name='time' needs xs that are sharded over that axis; .* jax.P\('time'\)",
        ),
        (
            lambda: on_mesh(carry=jnp.ones((2, 4)), carry_spec=P("time")),
            "needs a carry that is the same on all devices of that axis; it varies",
        ),
        (
            lambda: on_mesh(cell=GRU, params=GRU.init(jax.random.key(0), 3)),
            r"scan: Associative\(axis_name='time'\) cannot run GRU\(4\): its step is not affine",
        ),
        (lambda: on_mesh(lengths=jnp.array([7, 2])), "lengths must be within 0…T = 6; got 7"),
        (
            lambda: whole(
                TWO, TWO.init(jax.random.key(0), 3), strategy=(STRATEGY, rnnjax.Sequential())
            ),
            "the strategies of all layers must have the same axis_name; got 'time', None",
        ),
        (
            lambda: rnnjax.bidirectional(
                (CELL, CELL), (CELL, CELL), BOTH, XS, strategy=(rnnjax.Sequential(), STRATEGY)
            ),
            "bidirectional: the strategies of all layers .* got None, 'time'",
        ),
        (lambda: rnnjax.Associative(axis_name=3), "Associative: axis_name must be a string; got 3"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
