"""A batch sharded over 8 virtual devices, in a process of its own: ``python -m tests.sharding``.

Prints one line a check, and exits with an error at the first that fails.
"""

import os

# Unoptimised machine code compiles in half the time; where collectives stand is decided before it.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnnjax
from rnnjax.kernels import build
from rnnjax.testing import TOLERANCE, largest_difference
from tests.cases import (
    CELLS,
    DEFERRED,
    FUSED,
    GATED,
    IN_DIMS,
    LINEAR,
    LINEAR_REPRESENTATIVES,
    PARALLEL,
    REPRESENTATIVES,
    RUNNERS,
    STRATEGIES,
    Case,
    D,
    draw,
)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

TIME, BATCH = 4, 8
# Each cell in one loop, and every loop with cells that are wrapped, stacked and read a memory.
PAIRS = [(cell, "sequential") for cell in CELLS if cell not in LINEAR]
PAIRS += [
    (cell, runner)
    for runner in RUNNERS
    for cell in (*REPRESENTATIVES, "stack")
    if (cell, runner) not in PAIRS
]
PAIRS += [(cell, runner) for runner in DEFERRED for cell in GATED]
MERGED = ("lstm", "gru")
# One computation, or a list of branches in braces.
CALLED = r"(?:body|condition|calls|to_apply|_computation|branch_computations)=\{?%?([\w.\-]+)"
COLLECTIVES = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)


def arrays_of(c: Case) -> tuple:
    return c.params, c.xs, c.carry, c.mask, c.resets, c.context


def value_and_grad(cell: rnnjax.Cell, strategy: rnnjax.Strategy):
    """Return a function of ``arrays_of`` to (sum over the rows, its gradient in the params)."""

    def loss(params, xs, carry, mask, resets, context):
        options = {"mask": mask, "resets": resets, "context": context, "strategy": strategy}
        result = rnnjax.scan(cell, params, xs, carry, **options)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(result))

    return jax.value_and_grad(loss)


def specs_of(c: Case) -> tuple:
    """Params on every device; the batch, axis 0 or 1, over the mesh."""

    def spread(tree, spec):
        return jax.tree.map(lambda _: spec, tree)

    params, xs, carry, mask, resets, context = arrays_of(c)
    rows, steps = P("b"), P(None, "b")
    specs = (spread(params, P()), spread(xs, steps), spread(carry, rows))
    return (*specs, spread(mask, steps), spread(resets, steps), spread(context, rows))


def training_step(cell: rnnjax.Cell, strategy: rnnjax.Strategy, c: Case, mesh):
    """Return one step of gradient descent on the mean over all rows, in ``jax.shard_map``."""

    def step(params, *rest):
        value, gradient = value_and_grad(cell, strategy)(params, *rest)
        new = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return jax.lax.psum(value, "b"), new

    specs = specs_of(c)
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(P(), specs[0])))


def collectives_inside_loops(text: str) -> list[str]:
    """List the collectives in the computations that a loop body of compiled HLO reaches."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        header = re.match(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        name = header.group(1) if header else name
        bodies.setdefault(name, []).append(line)
    calls = {name: re.findall(CALLED, "\n".join(lines)) for name, lines in bodies.items()}
    pending = re.findall(r"body=%?([\w.\-]+)", text)
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += calls.get(name, [])
    return [line for name in reached for line in bodies.get(name, []) if COLLECTIVES.search(line)]


def check_values(name: str, label: str, strategy: rnnjax.Strategy) -> None:
    c = draw(CELLS[name], TIME, BATCH, IN_DIMS.get(name, D))
    # Without a carry the initial one is made, and has to be placed as the rows are.
    c = Case(**{**vars(c), "xs": jax.tree.map(_clean, c.xs), "carry": None})
    expected = jax.jit(value_and_grad(c.cell, rnnjax.Sequential()))(*arrays_of(c))
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("b",), axis_types=(kind,))
        placed = jax.tree.map(
            lambda a, spec, mesh=mesh: jax.device_put(a, NamedSharding(mesh, spec)),
            arrays_of(c),
            specs_of(c),
        )
        with jax.set_mesh(mesh):
            got = jax.jit(value_and_grad(c.cell, strategy))(*placed)
        difference = largest_difference(expected, got)
        assert difference < TOLERANCE["float32"], (name, label, kind, difference)
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,))
    value, new = training_step(c.cell, strategy, c, mesh)(*arrays_of(c))
    by_hand = jax.tree.map(lambda p, g: p - 0.1 * g, c.params, expected[1])
    difference = largest_difference((expected[0], by_hand), (value, new))
    assert difference < TOLERANCE["float32"], (name, label, "shard_map", difference)
    print(f"values: {name}, {label}: sharded jit (automatic, explicit) and shard_map agree")


def check_replicated_arguments() -> None:
    """Under explicit axes only xs need be placed: keys, carry and context follow it."""
    c = draw(CELLS["stack"], TIME, BATCH)
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Explicit,))
    x = jnp.nan_to_num(c.xs.x)
    options = {"context": c.context, "resets": c.resets}
    expected = rnnjax.scan(c.cell, c.params, c.xs._replace(x=x), c.carry, **options)
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, P(None, "b")))
        got = rnnjax.scan(c.cell, c.params, c.xs._replace(x=placed), c.carry, **options)
    assert largest_difference(expected, got) < TOLERANCE["float32"]
    print("replicated: keys, carry and context follow the sharding of xs")


def check_memory() -> None:
    """Made inside, a memory is sharded as the encoder's outputs are, whatever its lengths are."""
    c = draw(CELLS["bahdanau"], TIME, BATCH)
    encoded = jax.random.normal(jax.random.key(1), (6, BATCH, 4))
    lengths = jnp.arange(BATCH) % 7

    def loss(params, encoded, x):
        memory = rnnjax.attention_memory(c.cell, params, encoded, lengths=lengths)
        return jnp.sum(rnnjax.scan(c.cell, params, x, context=memory)[1].output)

    x = jnp.nan_to_num(c.xs)
    expected = jax.value_and_grad(loss)(c.params, encoded, x)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("b",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            placed = jax.device_put((encoded, x), NamedSharding(mesh, P(None, "b")))
            got = jax.jit(jax.value_and_grad(loss))(c.params, *placed)
        assert largest_difference(expected, got) < TOLERANCE["float32"], kind
    print("memory: sharded jit (automatic, explicit) agrees")


def check_causal_conv() -> None:
    """Only xs need be placed: lengths, resets and the carry made inside follow it."""
    params = rnnjax.init_causal_conv(jax.random.key(0), D)
    xs = jax.random.normal(jax.random.key(1), (TIME, BATCH, D))
    options = {"lengths": jnp.arange(BATCH) % 5, "resets": xs[..., 0] > 0.5}

    def loss(params, xs):
        carry, ys = rnnjax.causal_conv(params, xs, **options)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(jnp.sin(carry))

    expected = jax.value_and_grad(loss)(params, xs)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("b",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            placed = jax.device_put(xs, NamedSharding(mesh, P(None, "b")))
            got = jax.jit(jax.value_and_grad(loss))(params, placed)
        assert largest_difference(expected, got) < TOLERANCE["float32"], kind
    print("causal_conv: sharded jit (automatic, explicit) agrees")


def check_collectives(name: str, label: str, strategy: rnnjax.Strategy) -> None:
    c = draw(CELLS[name], TIME, BATCH, IN_DIMS.get(name, D))
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,))
    assert_none_inside(training_step(c.cell, strategy, c, mesh), c, f"{name}, {label}")


def check_collectives_of_jit(name: str, label: str, strategy: rnnjax.Strategy) -> None:
    """The partitioner places the sums: after the loop, where the loop has no weight's gradient."""
    c = draw(CELLS[name], TIME, BATCH, IN_DIMS.get(name, D))
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,))
    placed = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of(c))
    step = jax.jit(value_and_grad(c.cell, strategy), in_shardings=placed)
    assert_none_inside(step, c, f"{name}, {label}, sharded jit")


def check_rows_stay(name: str) -> None:
    """A kernel takes each device's own rows: in a sharded jit nothing but sums goes between."""
    c = draw(CELLS[name], TIME, BATCH, IN_DIMS.get(name, D))
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,))
    placed = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of(c))
    step = jax.jit(value_and_grad(c.cell, FUSED["fused"]), in_shardings=placed)
    text = step.lower(*arrays_of(c)).compile().as_text()
    found = {match[0] for match in COLLECTIVES.findall(text)}
    assert found == {"all-reduce"}, (name, found)
    assert "rnnjax_forward" in text
    assert "rnnjax_backward" in text


def assert_none_inside(step, c: Case, words: str) -> None:
    text = step.lower(*arrays_of(c)).compile().as_text()
    assert COLLECTIVES.search(text), "the weights' gradients must be summed somewhere"
    inside = collectives_inside_loops(text)
    assert not inside, (words, inside)
    print(f"collectives: {words}: none inside a loop")


def check_the_check() -> None:
    """A sum over the mesh inside a loop is found, or ``check_collectives`` could not fail."""
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,))

    def total(x):
        def body(carry, _):
            return jax.lax.psum(carry * x.sum(), "b") * 0.1, None

        return jax.lax.scan(body, jnp.ones(()), None, length=5)[0]

    summed = jax.jit(
        jax.shard_map(total, mesh=mesh, in_specs=P("b"), out_specs=P(), check_vma=False)
    )
    text = summed.lower(jnp.ones((8,))).compile().as_text()
    assert collectives_inside_loops(text)


def _clean(a):
    return jnp.nan_to_num(a) if jnp.issubdtype(a.dtype, jnp.inexact) else a


if __name__ == "__main__":
    check_the_check()
    check_replicated_arguments()
    check_memory()
    check_causal_conv()
    for label, strategy in (RUNNERS | DEFERRED).items():
        for name in REPRESENTATIVES:
            check_values(name, label, strategy)
    for name, label in PAIRS:
        check_collectives(name, label, (RUNNERS | DEFERRED)[label])
    if build.missing() is None:
        for name in REPRESENTATIVES:
            check_values(name, "fused", FUSED["fused"])
            check_collectives(name, "fused", FUSED["fused"])
            check_collectives_of_jit(name, "fused", FUSED["fused"])
            check_rows_stay(name)
    for name, (label, strategy) in zip(LINEAR_REPRESENTATIVES, PARALLEL.items(), strict=True):
        check_values(name, label, strategy)
        check_collectives(name, label, strategy)
    for label, strategy in DEFERRED.items():
        for name in GATED:
            check_collectives_of_jit(name, label, strategy)
    for name in MERGED:
        check_values(name, "merged", STRATEGIES["sequential_defer_merge"])
        check_collectives_of_jit(name, "merged", STRATEGIES["sequential_defer_merge"])
