"""A cell over time as a module of Flax NNX, in one direction or in both."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from rnnjax import checks, layer
from rnnjax.array_typing import Array, Carry, InDim, Params, PyTree
from rnnjax.cell import Cell
from rnnjax.recurrence import Strategy
from rnnjax.strategies.auto import Auto


class RNN(nnx.Module):
    """Run a cell over time: inputs (…, T, features) → outputs (…, T, …).

    Outputs beyond a row's length are zero, and a row of length 0 gives back its initial carry.

    Args:
        cell: the cell.
        in_dim: the shape of one input, as in ``cell.init``.
        time_major: time is the first axis of inputs and outputs, else it stands after the batch.
        return_carry: return (carry, outputs), else the outputs alone.
        reverse: run from the last step to the first, each row from its own last valid step.
        keep_order: with ``reverse``, leave the outputs in the order of the inputs; else they come
            in the order in which they were made.
        deterministic: draw no noise; ``module.eval()`` and ``module.train()`` set it.
        strategy: how to run; a tuple gives each layer of a ``Stack`` its own.
        rngs: of the params (``params``), and of the noise of a stochastic cell (``dropout``).

    Raises:
        TypeError: when ``cell`` is not a cell.
        ValueError: when ``in_dim`` does not fit the cell.

    Example:
        >>> import jax.numpy as jnp, rnnjax, rnnjax.nnx
        >>> from flax import nnx
        >>> rnn = rnnjax.nnx.RNN(rnnjax.LSTM(8), 4, rngs=nnx.Rngs(0))
        >>> rnn(jnp.ones((2, 5, 4)), seq_lengths=jnp.array([5, 3])).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        cell: Cell,
        in_dim: InDim,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        deterministic: bool = False,
        strategy: Strategy | tuple[Strategy, ...] = Auto(),
        rngs: nnx.Rngs,
    ):
        checks.instance("RNN", "cell", cell, Cell, "rnnjax.LSTM(64)")
        self.cell = nnx.static(cell)
        self.time_major, self.return_carry = time_major, return_carry
        self.reverse, self.keep_order = reverse, keep_order
        self.deterministic = deterministic
        self.strategy = nnx.static(strategy)
        params = cell.init(rngs.params(), in_dim)
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.rngs = nnx.data(rngs.dropout.fork() if layer.needs_noise(cell, params) else None)

    def cell_params(self) -> Params:
        """Return the params as ``rnnjax.scan`` and ``rnnjax.step`` take them."""
        return jax.tree.map(
            lambda param: param[...], self.params, is_leaf=lambda a: isinstance(a, nnx.Param)
        )

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
        rngs: nnx.Rngs | nnx.RngStream | None = None,
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
            deterministic: as of the module.
            rngs: of the noise, instead of the module's own.

        Returns:
            The outputs, or (carry, outputs).

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value.
        """
        deterministic = self.deterministic if deterministic is None else deterministic
        stream = self.rngs if rngs is None else rngs
        stream = stream.dropout if isinstance(stream, nnx.Rngs) else stream
        carry, outputs = layer.run(
            "RNN",
            self.cell,
            self.cell_params(),
            inputs,
            None if deterministic or stream is None else stream(),
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


class Bidirectional(nnx.Module):
    """Run two RNNs in both directions and merge their outputs.

    Args:
        forward_rnn: an ``RNN``.
        backward_rnn: another one, run in reverse.
        merge_fn: (outputs forwards, outputs backwards) → outputs.
        time_major: as in ``RNN``.
        return_carry: return ((carry forwards, carry backwards), outputs).

    Example:
        >>> import jax.numpy as jnp, rnnjax, rnnjax.nnx
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> both = rnnjax.nnx.Bidirectional(
        ...     rnnjax.nnx.RNN(rnnjax.GRU(8), 4, rngs=rngs),
        ...     rnnjax.nnx.RNN(rnnjax.GRU(8), 4, rngs=rngs))
        >>> both(jnp.ones((2, 5, 4))).shape
        (2, 5, 16)
    """

    def __init__(
        self,
        forward_rnn: RNN,
        backward_rnn: RNN,
        *,
        merge_fn: Callable[[Array, Array], Array] = layer.concatenate,
        time_major: bool = False,
        return_carry: bool = False,
    ):
        self.forward_rnn, self.backward_rnn = forward_rnn, backward_rnn
        self.merge_fn, self.time_major, self.return_carry = merge_fn, time_major, return_carry

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
