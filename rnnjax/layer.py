"""What the modules for Flax share: arrays in Flax's layout, in and out of ``rnnjax.scan``."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Carry, Key, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Strategy
from rnnjax.scan import scan, sequence_noise, with_keys


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where time, batch and features stand in a layer's inputs.

    Attributes:
        batch: the sizes of the batch axes, none to many.
        time: T.
        time_major: time stands before the batch axes, else after them.
    """

    batch: tuple[int, ...]
    time: int
    time_major: bool

    @classmethod
    def of(cls, owner: str, inputs: Any, features: int, time_major: bool) -> "Layout":
        """Read it off the inputs, whose last axes are so many features' axes.

        Raises:
            ValueError: when there is no axis left for time.
        """
        leading = jnp.shape(inputs)[: jnp.ndim(inputs) - features]
        if not leading:
            words = "(T, …, features)" if time_major else "(…, T, features)"
            raise ValueError(
                f"{owner}: inputs must be {words} with {features} axes of features; got the shape "
                f"{jnp.shape(inputs)}."
            )
        batch, time = (leading[1:], leading[0]) if time_major else (leading[:-1], leading[-1])
        return cls(batch, time, time_major)

    def steps_in(self, array: Any, owner: str, name: str) -> Array:
        """Bring an array over batch and time into (T, B, …).

        Raises:
            ValueError: when it has other axes.
        """
        array = jnp.asarray(array)
        axes = len(self.batch) + 1
        wanted = (self.time, *self.batch) if self.time_major else (*self.batch, self.time)
        if array.shape[:axes] != wanted:
            raise ValueError(
                f"{owner}: {name} must lead with the axes {wanted}; got {array.shape}."
            )
        array = array if self.time_major else jnp.moveaxis(array, axes - 1, 0)
        return array.reshape(self.time, math.prod(self.batch), *array.shape[axes:])

    def steps_out(self, array: Array) -> Array:
        """Bring an array (T, B, …) back."""
        array = array.reshape(self.time, *self.batch, *array.shape[2:])
        return array if self.time_major else jnp.moveaxis(array, 0, len(self.batch))

    def rows_in(self, tree: PyTree, owner: str, name: str) -> PyTree:
        """Bring arrays over the batch into (B, …).

        Raises:
            ValueError: when they have other axes.
        """

        def merge(leaf: Any) -> Array:
            axes = len(self.batch)
            if jnp.shape(leaf)[:axes] != self.batch:
                raise ValueError(
                    f"{owner}: {name} must lead with the batch axes {self.batch}; got the shape "
                    f"{jnp.shape(leaf)}."
                )
            return jnp.reshape(leaf, (math.prod(self.batch), *jnp.shape(leaf)[axes:]))

        return jax.tree.map(merge, tree)

    def rows_out(self, tree: PyTree) -> PyTree:
        """Bring arrays (B, …) back."""
        return jax.tree.map(lambda leaf: leaf.reshape(*self.batch, *leaf.shape[1:]), tree)


def run(
    owner: str,
    cell: Cell,
    params: Params,
    inputs: Any,
    key: Key | None,
    *,
    initial_carry: Carry | None,
    seq_lengths: Any,
    mask: Any,
    resets: Any,
    context: dict[str, PyTree] | None,
    time_major: bool,
    reverse: bool,
    keep_order: bool,
    strategy: Strategy | tuple[Strategy, ...],
) -> tuple[Carry, PyTree]:
    """Run a cell on inputs in Flax's layout; with a key, noise is drawn.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.
    """
    if reverse and not keep_order and mask is not None:
        raise ValueError(
            f"{owner}: keep_order must be True with reverse and a mask, whose steps have no other "
            f"order; give right padding as seq_lengths."
        )
    shapes = cell.input_shapes(params)
    features = 1 if shapes is None else max(leaf.ndim for leaf in jax.tree.leaves(shapes))
    layout = Layout.of(owner, inputs, features, time_major)
    xs = layout.steps_in(inputs, owner, "inputs")
    rows = {"initial_carry": initial_carry, "seq_lengths": seq_lengths, "context": context}
    rows = {name: layout.rows_in(tree, owner, name) for name, tree in rows.items()}
    steps = {
        name: None if array is None else layout.steps_in(array, owner, name)
        for name, array in (("mask", mask), ("resets", resets))
    }
    if key is not None:
        k_steps, k_rows = jax.random.split(key)
        xs = with_keys(k_steps, xs) if cell.noisy else xs
        noise = sequence_noise(k_rows, cell, params, math.prod(layout.batch))
        rows["context"] = {**noise, **(rows["context"] or {})} or None
    carry, ys = scan(
        cell,
        params,
        xs,
        rows["initial_carry"],
        lengths=rows["seq_lengths"],
        context=rows["context"],
        reverse=reverse,
        strategy=strategy,
        **steps,
    )
    if reverse and not keep_order:
        ys = _in_order_of_travel(ys, rows["seq_lengths"], layout.time)
    return layout.rows_out(carry), jax.tree.map(layout.steps_out, ys)


def both_ways(
    module: Any,
    inputs: Any,
    initial_carry: tuple[Carry, Carry] | None,
    return_carry: bool | None,
    time_major: bool | None,
    options: dict[str, Any],
) -> Any:
    """Run the two layers of a bidirectional module and merge their outputs.

    Raises:
        ValueError: when they are the same module.
    """
    if module.forward_rnn is module.backward_rnn:
        raise ValueError(
            "Bidirectional: backward_rnn must be another module than forward_rnn, or they share "
            "their params. Make a second RNN."
        )
    forwards, backwards = (None, None) if initial_carry is None else initial_carry
    options = {
        **options,
        "time_major": module.time_major if time_major is None else time_major,
        "return_carry": True,
    }
    ahead, outputs = module.forward_rnn(inputs, initial_carry=forwards, reverse=False, **options)
    back, outputs_back = module.backward_rnn(
        inputs, initial_carry=backwards, reverse=True, keep_order=True, **options
    )
    outputs = jax.tree.map(module.merge_fn, outputs, outputs_back)
    wanted = module.return_carry if return_carry is None else return_carry
    return ((ahead, back), outputs) if wanted else outputs


def concatenate(forwards: Array, backwards: Array) -> Array:
    """Put the outputs of both directions side by side on the last axis."""
    return jnp.concatenate([forwards, backwards], axis=-1)


def needs_noise(cell: Cell, params: Params) -> bool:
    """Return whether a cell, or one inside it, draws noise."""
    drawn = jax.eval_shape(cell.sequence_noise, jax.random.key(0), params)
    return cell.noisy or bool(drawn)


def _in_order_of_travel(ys: PyTree, lengths: Array | None, time: int) -> PyTree:
    """Turn each row's valid steps (T, B, …) round; padding stays at the end."""
    steps = jnp.arange(time)[:, None]
    last = time if lengths is None else lengths[None]
    order = jnp.where(steps < last, last - 1 - steps, steps)  # (T, B), or (T, 1) for all rows

    def turn(y: Array) -> Array:
        index = jax.lax.expand_dims(order, range(2, y.ndim))
        return jnp.take_along_axis(y, jnp.broadcast_to(index, (*y.shape[:2], *index.shape[2:])), 0)

    return jax.tree.map(turn, ys)
