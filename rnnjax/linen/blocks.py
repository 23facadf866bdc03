"""Deep models in a few lines: blocks of convolution, cell and gated MLP, on Flax Linen."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from rnnjax import block
from rnnjax.array_typing import Array, PyTree
from rnnjax.block import BlockCarry
from rnnjax.causal_conv import init_causal_conv
from rnnjax.cell import Cell
from rnnjax.linen.rnn import RNN
from rnnjax.recurrence import Strategy
from rnnjax.strategies.auto import Auto


class Block(nn.Module):
    """A layer of a deep model: a short convolution, a cell, a gated MLP, added to what they read.

    z = Norm(x),   h = cell(causal_conv(z)),    x ← x + Dropout((gelu(z W_g) ⊙ h) W_o)
    z = Norm(x),   (a, v) = z W_m,              x ← x + Dropout((gelu(a) ⊙ v) W_n)

    The recurrent block of Griffin (De et al. 2024), in which x W_x stands before the convolution;
    in the blocks of LRU (Orvieto et al. 2023) and S5 (Smith et al. 2023) there is no convolution
    and the gate is a GLU behind the cell. Everything but convolution and cell sees one step alone,
    so what has to be passed on is the convolution's last inputs and the cell's carry: a sequence
    in parts, or step by step, gives what the whole gives. Masks, lengths and resets hold for the
    convolution, too: no window reaches over a reset or into padding. Outputs where no step is taken
    are zero. W_g (D, N), W_o (N, D), W_m (D, 2ED), W_n (ED, D), with biases.

    Attributes:
        cell: any cell with one vector (N,) as its output.
        features: D, of inputs and outputs.
        conv_width: K, how many steps the convolution sees; None: there is none.
        expansion: E, how many times wider the MLP is.
        dropout: share of what each half adds that is dropped, where there is noise.
        norm: makes a norm; ``nn.LayerNorm``, for one.
        time_major: time is the first axis of inputs and outputs, else it stands after the batch.
        return_carry: return (carry, outputs), else the outputs alone.
        strategy: how to run the cell.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax, rnnjax.linen
        >>> block = rnnjax.linen.Block(rnnjax.MinGRU(8), 4)
        >>> inputs, lengths = jnp.ones((2, 5, 4)), jnp.array([5, 3])
        >>> variables = block.init(jax.random.key(0), inputs)
        >>> carry, ys = block.apply(variables, inputs, seq_lengths=lengths, return_carry=True)
        >>> carry.window.shape, carry.cell.shape, ys.shape
        ((2, 3, 4), (2, 8), (2, 5, 4))
    """

    cell: Cell
    features: int
    conv_width: int | None = 4
    expansion: int = 2
    dropout: float = 0.0
    norm: Callable[..., Any] = nn.RMSNorm
    time_major: bool = False
    return_carry: bool = False
    strategy: Strategy | tuple[Strategy, ...] = Auto()

    def setup(self) -> None:
        """Make the layers.

        Raises:
            TypeError: a field of the wrong kind.
            ValueError: a size below 1, or a cell that does not fit.
        """
        block.check(self.cell, self.features, self.conv_width, self.expansion, self.dropout)
        width = block.width(self.cell, self.features)
        conv = None
        if self.conv_width is not None:
            conv = self.param("conv", init_causal_conv, self.features, self.conv_width)
        self.conv = conv
        self.cell_norm, self.mlp_norm = self.norm(), self.norm()
        self.rnn = RNN(self.cell, strategy=self.strategy)
        self.gate, self.out = nn.Dense(width), nn.Dense(self.features)
        inside = self.expansion * self.features
        self.mlp_in, self.mlp_out = nn.Dense(2 * inside), nn.Dense(self.features)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: BlockCarry | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        context: dict[str, PyTree] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Run the block on inputs (…, T, D); what is None is as the module says.

        Args:
            inputs: with any number of batch axes.
            initial_carry: leading with the batch axes; None: zeros, and the cell's own.
            seq_lengths: over the batch axes; right padding beyond them.
            mask: over batch and time, as they stand in the inputs; False takes no step.
            resets: likewise; True begins with the initial carry.
            context: what the cell reads in every step, leading with the batch axes.
            return_carry: as of the module.
            time_major: as of the module.
            deterministic: draw no noise; None: draw it where ``apply`` has the rng ``"dropout"``.

        Returns:
            The outputs (…, T, D), or (carry, outputs).

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value.
        """
        steps = block.Steps.of(
            inputs,
            self.features,
            initial_carry,
            seq_lengths,
            mask,
            resets,
            context,
            self.time_major if time_major is None else time_major,
        )
        if deterministic is None:
            deterministic = not self.has_rng("dropout")
        conv = None if self.conv is None else dict(self.conv)  # Linen freezes what setup stores.
        carry, outputs = steps.out(*block.run(self, conv, steps, deterministic))
        wanted = self.return_carry if return_carry is None else return_carry
        return (carry, outputs) if wanted else outputs

    def step(
        self,
        x: Array,
        carry: BlockCarry | None = None,
        *,
        mask: Array | None = None,
        reset: Array | None = None,
        context: dict[str, PyTree] | None = None,
        deterministic: bool | None = None,
    ) -> tuple[BlockCarry, Array]:
        """Take one step (…, D), with ``apply(…, method="step")``: streaming, decoding, control.

        Returns:
            The next carry, and the outputs (…, D).

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value.
        """
        options = {"context": context, "deterministic": deterministic}
        return block.one_step(self, x, carry, mask, reset, options)


class Blocks(nn.Module):
    """Blocks on top of each other: a deep model that is still run, masked, cut and stepped as one.

    Attributes:
        blocks: from the input up, all of the same ``features``.
        time_major: as in ``Block``.
        return_carry: return (carries, outputs), a carry for each block.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax, rnnjax.linen
        >>> from rnnjax.linen import Block, Blocks
        >>> deep = Blocks([Block(rnnjax.LRU(8), 4) for _ in range(2)])
        >>> inputs = jnp.ones((2, 5, 4))
        >>> variables = deep.init(jax.random.key(0), inputs)
        >>> carries, ys = deep.apply(variables, inputs, return_carry=True)
        >>> carries, y = deep.apply(variables, inputs[:, 0], carries, method="step")
        >>> len(carries), ys.shape, y.shape
        (2, (2, 5, 4), (2, 4))
    """

    blocks: Sequence[Block]
    time_major: bool = False
    return_carry: bool = False

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[BlockCarry, ...] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        **options: Any,
    ) -> Any:
        """Run all; ``options`` are those of ``Block``, and hold for each.

        Returns:
            The outputs (…, T, D), or (carries, outputs).

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value.
        """
        options["time_major"] = self.time_major if time_major is None else time_major
        carries, outputs = block.one_after_another(self.blocks, inputs, initial_carry, options)
        wanted = self.return_carry if return_carry is None else return_carry
        return (carries, outputs) if wanted else outputs

    def step(
        self,
        x: Array,
        carry: tuple[BlockCarry, ...] | None = None,
        *,
        mask: Array | None = None,
        reset: Array | None = None,
        **options: Any,
    ) -> tuple[tuple[BlockCarry, ...], Array]:
        """Take one step (…, D) through all; as in ``Block``.

        Returns:
            The next carries, and the outputs (…, D).

        Raises:
            TypeError: an argument of the wrong kind or dtype.
            ValueError: an argument of the wrong shape or value.
        """
        return block.one_step(self, x, carry, mask, reset, options)
