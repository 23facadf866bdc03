"""A cell over time as a module of Flax Linen, in one direction or in both."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rnnjax import checks, layer
from rnnjax.array_typing import Array, Carry, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Strategy
from rnnjax.strategies.auto import Auto


class RNN(nn.Module):
    """Run a cell over time: inputs (…, T, features) → outputs (…, T, …).

    The params of the cell stand under ``"cell"``. Outputs beyond a row's length are zero, and a row
    of length 0 gives back its initial carry.

    Attributes:
        cell: the cell.
        time_major: time is the first axis of inputs and outputs, else it stands after the batch.
        return_carry: return (carry, outputs), else the outputs alone.
        reverse: run from the last step to the first, each row from its own last valid step.
        keep_order: with ``reverse``, leave the outputs in the order of the inputs; else they come
            in the order in which they were made.
        feature_axes: how many of the last axes of the inputs are features: more than one for a cell
            that reads images.
        strategy: how to run; a tuple gives each layer of a ``Stack`` its own.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax, rnnjax.linen
        >>> rnn = rnnjax.linen.RNN(rnnjax.LSTM(8))
        >>> inputs, lengths = jnp.ones((2, 5, 4)), jnp.array([5, 3])
        >>> variables = rnn.init(jax.random.key(0), inputs)
        >>> rnn.apply(variables, inputs, seq_lengths=lengths).shape
        (2, 5, 8)
    """

    cell: Cell
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    feature_axes: int = 1
    strategy: Strategy | tuple[Strategy, ...] = Auto()

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Carry | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        context: dict[str, PyTree] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Run the cell; what is None is as the module says.

        Args:
            inputs: (…, T, features), with any number of batch axes.
            initial_carry: leading with the batch axes; None: the cell's own.
            seq_lengths: over the batch axes; right padding beyond them.
            mask: over batch and time, as they stand in the inputs; False takes no step.
            resets: likewise; True begins with the initial carry.
            context: what the cell reads in every step, leading with the batch axes.
            return_carry: as of the module.
            time_major: as of the module.
            reverse: as of the module.
            keep_order: as of the module.
            deterministic: draw no noise; None: draw it where ``apply`` has the rng ``"dropout"``.

        Returns:
            The outputs, or (carry, outputs).

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value.
        """
        checks.instance("RNN", "cell", self.cell, Cell, "rnnjax.LSTM(64)")
        in_dim = jnp.shape(inputs)[-self.feature_axes :]
        params = self.param("cell", lambda key: self.cell.init(key, in_dim))
        if deterministic is None:
            deterministic = not self.has_rng("dropout")
        draws = not deterministic and layer.needs_noise(self.cell, params)
        carry, outputs = layer.run(
            "RNN",
            self.cell,
            params,
            inputs,
            self.make_rng("dropout") if draws else None,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            mask=mask,
            resets=resets,
            context=context,
            time_major=self.time_major if time_major is None else time_major,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
            strategy=self.strategy,
        )
        wanted = self.return_carry if return_carry is None else return_carry
        return (carry, outputs) if wanted else outputs


class Bidirectional(nn.Module):
    """Run two RNNs in both directions and merge their outputs.

    Attributes:
        forward_rnn: an ``RNN``.
        backward_rnn: another one, run in reverse.
        merge_fn: (outputs forwards, outputs backwards) → outputs.
        time_major: as in ``RNN``.
        return_carry: return ((carry forwards, carry backwards), outputs).

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax, rnnjax.linen
        >>> both = rnnjax.linen.Bidirectional(
        ...     rnnjax.linen.RNN(rnnjax.GRU(8)), rnnjax.linen.RNN(rnnjax.GRU(8)))
        >>> outputs, variables = both.init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)))
        >>> outputs.shape, sorted(variables["params"])
        ((2, 5, 16), ['backward_rnn', 'forward_rnn'])
    """

    forward_rnn: RNN
    backward_rnn: RNN
    merge_fn: Callable[[Array, Array], Array] = layer.concatenate
    time_major: bool = False
    return_carry: bool = False

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Carry, Carry] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        **options: Any,
    ) -> Any:
        """Run both; ``options`` are those of ``RNN``, and hold for both directions.

        Returns:
            The merged outputs, or ((carry forwards, carry backwards), outputs).

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value, or one module for both directions.
        """
        return layer.both_ways(self, inputs, initial_carry, return_carry, time_major, options)
