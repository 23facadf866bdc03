"""What the blocks of Linen and NNX share: all that is no layer of Flax."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, Params, PyTree
from rnnjax.causal_conv import causal_conv
from rnnjax.cell import Cell, row_shapes, with_context
from rnnjax.layer import Layout
from rnnjax.scan import valid_steps


class BlockCarry(NamedTuple):
    """What a block hands on from step to step.

    Attributes:
        window: the last K − 1 inputs of its convolution (…, K − 1, D); None without one.
        cell: the carry of its cell.
    """

    window: Array | None
    cell: Carry


class Steps(NamedTuple):
    """What a block reads, time-major and with one batch axis.

    Attributes:
        xs: inputs (T, B, D), zero where no step is taken, so that what stands there goes nowhere.
        carry: before the first step, leading with B; None stands for zeros and the cell's own.
        mask: where steps are taken (T, B), or None.
        resets: (T, B), or None.
        context: what the cell reads in every step, leading with B, or None.
        layout: how they came.
    """

    xs: Array
    carry: BlockCarry
    mask: Array | None
    resets: Array | None
    context: dict[str, PyTree] | None
    layout: Layout

    @classmethod
    def of(
        cls,
        inputs: Any,
        features: int,
        initial_carry: Any,
        seq_lengths: Any,
        mask: Any,
        resets: Any,
        context: dict[str, PyTree] | None,
        time_major: bool,
    ) -> "Steps":
        """Bring what came in Flax's layout into one form.

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value.
        """
        layout = Layout.of("Block", inputs, 1, time_major)
        xs = layout.steps_in(inputs, "Block", "inputs")
        if xs.shape[-1] != features:
            raise ValueError(
                f"Block: inputs must have features = {features} on their last axis, because the "
                f"block adds to them; got {jnp.shape(inputs)}. Put a Dense layer in front."
            )
        axes = checks.Axes("Block", ("T", "B"), xs.shape[:2])
        mask, resets = (
            _marks(layout, axes, name, array)
            for name, array in (("mask", mask), ("resets", resets))
        )
        rows = {"initial_carry": _given(initial_carry), "seq_lengths": seq_lengths}
        rows = {
            name: layout.rows_in(tree, "Block", name)
            for name, tree in {**rows, "context": context}.items()
        }
        checks.lengths(rows["seq_lengths"], axes)
        valid = valid_steps(mask, rows["seq_lengths"], layout.time)
        xs = where(valid, xs)
        return cls(xs, rows["initial_carry"], valid, resets, rows["context"], layout)

    def out(self, carry: BlockCarry, ys: Array) -> tuple[BlockCarry, Array]:
        """Bring a carry and outputs (T, B, D) back; outputs are zero where no step was taken."""
        return self.layout.rows_out(carry), self.layout.steps_out(where(self.mask, ys))


def _marks(layout: Layout, axes: checks.Axes, name: str, array: Any) -> Array | None:
    """Bring a mask or resets into (T, B)."""
    array = None if array is None else layout.steps_in(array, "Block", name)
    checks.booleans(name, array, axes)
    return array


def _given(carry: Any) -> BlockCarry:
    """Return a carry that was passed in, or what stands for the initial one."""
    if carry is None:
        return BlockCarry(None, None)
    if not isinstance(carry, BlockCarry):
        raise TypeError(
            f"Block: initial_carry must be a BlockCarry; got {type(carry).__name__}. Pass what a "
            f"call with return_carry=True returned."
        )
    return carry


def where(mask: Array | None, xs: Array) -> Array:
    """Return xs (T, B, D) where the mask (T, B) is True, else zeros: by selection."""
    return xs if mask is None else jnp.where(mask[..., None], xs, jnp.zeros((), xs.dtype))


def run(
    module: Any, conv: Params | None, steps: Steps, deterministic: bool | None
) -> tuple[BlockCarry, Array]:
    """Run a block, of Linen's layers or of NNX's: the carry, and outputs (T, B, D).

    Args:
        module: has the layers as attributes.
        conv: params of the convolution, if there is one.
        steps: what it reads.
        deterministic: as the layers take it.
    """
    marks = {"mask": steps.mask, "resets": steps.resets}
    x, (window, carry) = steps.xs, steps.carry
    z = h = module.cell_norm(x)
    if conv is not None:
        window, h = causal_conv(conv, z, window, **marks)
    carry, h = module.rnn(
        h,
        initial_carry=carry,
        context=steps.context,
        time_major=True,
        return_carry=True,
        **marks,
        deterministic=deterministic,
    )
    added = module.out(jax.nn.gelu(module.gate(z)) * h.astype(z.dtype))
    x = x + module.drop(added, deterministic=deterministic)
    gate, value = jnp.split(module.mlp_in(module.mlp_norm(x)), 2, axis=-1)
    added = module.mlp_out(jax.nn.gelu(gate) * value)
    x = x + module.drop(added, deterministic=deterministic)
    return BlockCarry(window, carry), x


def one_step(module: Any, x: Any, carry: Any, mask: Any, reset: Any, options: dict) -> Any:
    """Call a block on a single time step: the next carry, and outputs (…, D)."""
    mask, resets = (None if a is None else jnp.asarray(a)[None] for a in (mask, reset))
    carry, ys = module(
        jnp.asarray(x)[None],
        initial_carry=carry,
        mask=mask,
        resets=resets,
        time_major=True,
        return_carry=True,
        **options,
    )
    return carry, ys[0]


def one_after_another(
    blocks: Sequence[Any], inputs: Any, initial_carry: Any, options: dict[str, Any]
) -> tuple[tuple[BlockCarry, ...], Array]:
    """Call blocks on top of each other: a carry for each, and the outputs of the last.

    Raises:
        ValueError: another number of carries than of blocks.
    """
    given = (None,) * len(blocks) if initial_carry is None else initial_carry
    if not isinstance(given, tuple | list) or len(given) != len(blocks):
        got = len(given) if isinstance(given, tuple | list) else type(given).__name__
        raise ValueError(
            f"Blocks: initial_carry must hold one carry for each of {len(blocks)} blocks; got "
            f"{got}. Pass what a call with return_carry=True returned."
        )
    carries, outputs = [], inputs
    for block, carry in zip(blocks, given, strict=True):
        carry, outputs = block(outputs, initial_carry=carry, return_carry=True, **options)
        carries.append(carry)
    return tuple(carries), outputs


def check(cell: Any, features: Any, conv_width: Any, expansion: Any, dropout: Any) -> None:
    """Check what a block is made of.

    Raises:
        TypeError: something of the wrong kind.
        ValueError: a size below 1, or no share.
    """
    checks.instance("Block", "cell", cell, Cell, "rnnjax.MinGRU(64)")
    checks.positive_int("Block", "features", features)
    checks.positive_int("Block", "expansion", expansion)
    if conv_width is not None:
        checks.positive_int("Block", "conv_width", conv_width)
    checks.probability("Block", "dropout", dropout)


def width(cell: Cell, features: int) -> int:
    """Return the width of a cell's outputs.

    Raises:
        ValueError: they are no single vector a step, or the cell does not read so many features.
    """
    params = jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))
    x = jax.ShapeDtypeStruct((features,), jax.dtypes.canonicalize_dtype(float))
    y = row_shapes(cell, with_context(params, cell.context_shapes()), x).y
    if len(getattr(y, "shape", ())) != 1:
        shapes = jax.tree.map(lambda leaf: leaf.shape, y)
        raise ValueError(
            f"Block: cell must return one vector (N,) a step; {checks.describe(cell)} returns "
            f"{shapes}. Use rnnjax.linen.RNN or rnnjax.nnx.RNN, with layers of your own."
        )
    return y.shape[0]
