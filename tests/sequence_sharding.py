"""A sequence sharded over 8 virtual devices, in a process of its own.

python -m tests.sequence_sharding

Prints one line a check, and exits with an error at the first that fails.
"""

import dataclasses
import math
import re
from typing import NamedTuple

from tests.sharding import COLLECTIVES, collectives_inside_loops  # first: it asks for 8 devices

# isort: split
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import rnnjax
from rnnjax.testing import TOLERANCE, largest_difference
from tests.cases import CELLS, Case, D, N, draw, scalar

PART, BATCH = 3, 4
WAYS = ("forward", "reverse")


@dataclasses.dataclass(frozen=True)
class Pair(rnnjax.Cell):
    """Two leaves, of real and of complex numbers, in one carry."""

    affine = elementwise = True

    def init(self, key, in_dim):
        return {"a": jax.random.uniform(key, (in_dim,))}

    def initial_carry(self, params):
        return jnp.ones_like(params["a"]), jnp.ones((2,), jnp.complex64)

    def step(self, params, carry, u):
        h, z = carry
        return params["a"] * h + u, 0.6j * z + jax.lax.complex(u[:2], u[1:3])

    def readout(self, params, carry, u):
        return jnp.concatenate([carry[0], carry[1].real, carry[1].imag])


ALL_CELLS = CELLS | {"pair": Pair()}


class Setting(NamedTuple):
    """A cell, the block of the strategy, and the devices along (batch, time)."""

    cell: str
    block: int | None
    shape: tuple[int, int]

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return jax.make_mesh(self.shape, ("batch", "time"), axis_types=(AxisType.Auto,) * 2)

    @property
    def case(self) -> Case:
        return draw(ALL_CELLS[self.cell], PART * self.shape[1], BATCH)

    @property
    def strategy(self) -> rnnjax.Strategy:
        return rnnjax.Associative(block=self.block, axis_name="time")


SETTINGS = (
    Setting("zoneout_min_lstm", 2, (1, 8)),
    Setting("pair", None, (1, 8)),
    Setting("lru", None, (2, 4)),
    Setting("gated_delta", None, (1, 8)),
    Setting("gated_delta", 2, (2, 4)),
)
COUNTED = SETTINGS[:2] + SETTINGS[4:]
# The numbers that a row's exchange holds: a, b and a flag of each leaf, complex where one of them
# is; with an operator A (2, 2, 2) and B (2, 2, 3), two flags, the carry and the initial one.
WIDTHS = {
    "zoneout_min_lstm": 2 * N + 1,
    "pair": 2 * (2 * (D + 2) + 2),
    "gated_delta": 8 + 12 + 2 + 2 * 12,
}


def arrays_of(c: Case) -> tuple:
    """Params, x, a carry for each way; then what has no derivative."""
    x, key = c.xs if isinstance(c.xs, rnnjax.Keyed) else (c.xs, None)
    carries = {"forward": c.carry, "reverse": jax.tree.map(lambda a: -0.5 * a, c.carry)}
    return c.params, x, carries, key, c.mask, c.lengths, c.resets


SPECS = (P(), P("time", "batch"), P("batch"), P("time", "batch"))
SPECS += (P("time", "batch"), P("batch"), P("time", "batch"))
OUT_SPECS = {way: (P("batch"), P("time", "batch")) for way in WAYS}


def both_ways(cell: rnnjax.Cell, strategy: rnnjax.Strategy):
    """Return a function of ``arrays_of`` to the results of both directions."""

    def run(params, x, carries, key, mask, lengths, resets):
        xs = x if key is None else rnnjax.Keyed(x, key)
        options = {"mask": mask, "lengths": lengths, "resets": resets, "strategy": strategy}
        return {
            way: rnnjax.scan(cell, params, xs, carry, reverse=way == "reverse", **options)
            for way, carry in carries.items()
        }

    return run


def value_and_grad(run):
    """Return a compiled function to (results, gradient in params, x and carries)."""

    def loss(*arrays):
        results = run(*arrays)
        return scalar(results), results

    def both(*arrays):
        (_, results), gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arrays)
        return results, gradient

    return jax.jit(both)


def check(setting: Setting) -> None:
    c, mesh = setting.case, setting.mesh
    arrays = arrays_of(c)
    run = both_ways(c.cell, setting.strategy)
    sharded = jax.shard_map(run, mesh=mesh, in_specs=SPECS, out_specs=OUT_SPECS)
    program = value_and_grad(sharded)
    expected = value_and_grad(both_ways(c.cell, rnnjax.Sequential()))(*arrays)
    difference = largest_difference(expected, program(*arrays))
    assert difference < TOLERANCE["float32"], (setting, difference)
    check_nan_carry(setting, program, arrays)
    check_nan_part(setting, program, arrays)
    print(f"values: {setting}: values and gradients agree, and nothing crosses a reset")


def check_nan_carry(setting: Setting, program, arrays: tuple) -> None:
    """A reset before the first step keeps a NaN carry out of all parts, and out of gradients."""
    params, x, carries, key, mask, lengths, resets = arrays
    rest = key, mask, lengths, resets.at[0].set(True)
    spoilt = carries | {"forward": jax.tree.map(lambda a: a * jnp.nan, carries["forward"])}
    clean = program(params, x, carries, *rest)
    assert largest_difference(clean, program(params, x, spoilt, *rest)) < 1e-6, setting


def check_nan_part(setting: Setting, program, arrays: tuple) -> None:
    """NaN in one part stays before the next reset, inside of a part and where two parts meet."""
    params, x, carries, key, mask, lengths, resets = arrays
    mask, lengths = jnp.ones_like(mask), jnp.full_like(lengths, len(mask))
    x = jnp.nan_to_num(x)
    spoilt = x.at[PART + 1].set(jnp.nan)
    for stop, turn in ((2 * PART, PART), (2 * PART + 1, PART - 1)):
        rest = key, mask, lengths, resets.at[stop].set(True).at[turn].set(True)
        clean, _ = program(params, x, carries, *rest)
        dirty, _ = program(params, spoilt, carries, *rest)
        assert bool(jnp.isnan(dirty["forward"][1][PART + 1]).any())
        after = (r["forward"][0] for r in (clean, dirty))
        assert largest_difference(*after) < 1e-6, (setting, stop)
        after = (r["forward"][1][stop:] for r in (clean, dirty))
        assert largest_difference(*after) < 1e-6, (setting, stop)
        after = (r["reverse"][1][:turn] for r in (clean, dirty))
        assert largest_difference(*after) < 1e-6, (setting, turn)


# Collectives


def check_collectives(setting: Setting) -> None:
    """One exchange forward and one backward, and the sums that replicated arguments ask for."""
    exchange = setting.shape[1] * (BATCH // setting.shape[0]) * WIDTHS[setting.cell]
    operator = setting.case.cell.operator()
    found = collectives(*scanned(setting, "forward"))
    assert found == [("all-gather", exchange)], (setting, found)
    found = collectives(*trained(setting, "reverse"))
    found.remove(("all-gather", exchange))
    found.remove(("all-gather" if operator is None else "all-reduce", exchange))
    # What is left are the gradients of params and carry, each a sum over the devices, and in the
    # loss the weight of the last carry, which is the same on all of them.
    params, _, carries, *_ = arrays_of(setting.case)
    numbers = sum(map(_numbers, jax.tree.leaves((params, carries["reverse"])))) + 1
    assert {kind for kind, _ in found} == {"all-reduce"}, (setting, found)
    assert sum(size for _, size in found) <= numbers, (setting, found)
    print(f"collectives: {setting}: one exchange a direction")


def scanned(setting: Setting, way: str) -> tuple:
    """Return a scan in one direction, sharded, and its arguments."""
    c = setting.case
    params, x, carries, *rest = arrays_of(c)
    run = both_ways(c.cell, setting.strategy)
    specs = {"in_specs": SPECS, "out_specs": {way: OUT_SPECS[way]}}
    return jax.shard_map(run, mesh=setting.mesh, **specs), (params, x, {way: carries[way]}, *rest)


def trained(setting: Setting, way: str) -> tuple:
    """Return its gradient, taken on each device, and its arguments."""
    run = both_ways(setting.case.cell, setting.strategy)

    def gradient(*arrays):
        return jax.grad(lambda *a: scalar(run(*a)), (0, 1, 2))(*arrays)

    specs = {"in_specs": SPECS, "out_specs": SPECS[:3]}
    return jax.shard_map(gradient, mesh=setting.mesh, **specs), scanned(setting, way)[1]


def _numbers(a: jax.Array) -> int:
    return a.size * (2 if jnp.iscomplexobj(a) else 1)


def collectives(function, arrays: tuple) -> list[tuple[str, int]]:
    """List the arrays that come out of a compiled program's collectives: kind, numbers."""
    text = jax.jit(function).lower(*arrays).compile().as_text()
    assert not collectives_inside_loops(text)
    found = []
    for line in text.splitlines():
        if match := COLLECTIVES.search(line):
            result = line[: match.start()].split(" = ", 1)[1]
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", result)
            found += [(match[1], _elements(*shape)) for shape in shapes]
    return found


def _elements(dtype: str, shape: str) -> int:
    sizes = [int(n) for n in shape.split(",") if n]
    return math.prod(sizes) * (2 if dtype.startswith("c") else 1)


if __name__ == "__main__":
    for setting in SETTINGS:
        check(setting)
    for setting in COUNTED:
        check_collectives(setting)
