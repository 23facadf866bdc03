"""Equal values compile once, and nothing is left behind."""

import dataclasses
import gc
import pathlib
import resource

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax import initializers
from tests.cases import skip_without_compiler

TRACES: list[None] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(rnnjax.LSTM):
    """An LSTM that counts how often it is traced."""

    def update(self, params, carry, u, r):
        TRACES.append(None)
        return super().update(params, carry, u, r)


def build():
    """Build everything anew: cell, wrapper, initialiser, dtype."""
    return rnnjax.Zoneout(
        Counted(
            16,
            forget_bias=initializers.Chrono(50),
            kernel_init=initializers.Orthogonal(),
            dtype=jnp.float32,
        ),
        rate=0.1,
    )


STRATEGIES = {
    "sequential": lambda: rnnjax.Sequential(unroll=2),
    "chunked": lambda: rnnjax.Chunked(3),
    "fused": lambda: rnnjax.Fused(),
    "auto": lambda: rnnjax.Auto(memory_bytes=10_000),
}


def resident_bytes() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_thousand_calls_compile_once_and_leave_nothing(strategy, jitted):
    skip_without_compiler(strategy)
    params = build().init(jax.random.key(0), 8)
    xs = jnp.ones((6, 4, 8))

    def call(cell, strategy, params, xs):
        return rnnjax.scan(cell, params, xs, strategy=strategy)

    run = jax.jit(call) if jitted else call

    def thousand():
        for _ in range(1000):
            run(build(), STRATEGIES[strategy](), params, xs)[1].block_until_ready()
        gc.collect()
        return len(TRACES), len(jax.live_arrays()), resident_bytes()

    run(build(), STRATEGIES[strategy](), params, xs)
    first = thousand()
    second = thousand()
    assert second[0] == first[0]
    assert second[1] == first[1]
    assert second[2] - first[2] < 4_000_000


def test_an_eager_loop_over_step_compiles_once():
    cell = build()
    params = cell.init(jax.random.key(0), 8)
    carry, _ = rnnjax.step(cell, params, jnp.ones((4, 8)))
    carry, _ = rnnjax.step(build(), params, jnp.ones((4, 8)), carry)
    traces = len(TRACES)
    for _ in range(50):
        carry, _ = rnnjax.step(build(), params, jnp.ones((4, 8)), carry)
    assert len(TRACES) == traces


def test_cells_and_strategies_are_static_nodes():
    for value in (build(), rnnjax.Chunked(), initializers.Chrono(5)):
        twin = dataclasses.replace(value)
        assert twin == value
        assert hash(twin) == hash(value)
    assert jax.tree.leaves((build(), rnnjax.Sequential())) == []
    assert rnnjax.LSTM(4, dtype="bfloat16") == rnnjax.LSTM(4, dtype=jnp.bfloat16)
