"""A deep model of one kind of cell: what is read, blocks on top of each other, a norm, a head."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import rnnjax
from rnnjax.linen import Block, Blocks


class Deep(nn.Module):
    """From symbols (T, B), or numbers (T, B, F), to logits.

    Attributes:
        cell: the same in every block.
        strategy: how to run it.
        features: D, of what passes from block to block.
        layers: how many blocks.
        dropout: of the blocks.
        outputs: logits.
        symbols: how many there are to read; None: numbers are read.
    """

    cell: rnnjax.Cell
    strategy: rnnjax.Strategy
    features: int
    layers: int
    dropout: float
    outputs: int
    symbols: int | None = None

    def setup(self) -> None:
        """Make the layers."""
        if self.symbols is None:
            self.read = nn.Dense(self.features)
        else:
            self.read = nn.Embed(self.symbols, self.features)
        options = {"dropout": self.dropout, "strategy": self.strategy}
        blocks = [Block(self.cell, self.features, **options) for _ in range(self.layers)]
        self.blocks = Blocks(blocks, time_major=True)
        self.norm, self.head = nn.RMSNorm(), nn.Dense(self.outputs)

    def __call__(
        self, carry: Any, inputs: jax.Array, resets: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Answer every step: the carry after them, and logits (T, B, outputs)."""
        carry, hs = self.hidden(carry, inputs, resets)
        return carry, self.head(hs)

    def answer(self, inputs: jax.Array) -> jax.Array:
        """Answer a whole sequence by the mean of its steps: logits (B, outputs)."""
        _, hs = self.hidden(None, inputs, None)
        return self.head(hs.mean(0))

    def hidden(
        self, carry: Any, inputs: jax.Array, resets: jax.Array | None
    ) -> tuple[Any, jax.Array]:
        """What the head reads (T, B, D)."""
        carry, hs = self.blocks(
            self.read(inputs), initial_carry=carry, resets=resets, return_carry=True
        )
        return carry, self.norm(hs)


def apply(model: Deep, params: Any, *inputs: Any, **options: Any) -> Any:
    """Call the model; Linen's own annotation would hide the type of the result."""
    return model.apply({"params": params}, *inputs, **options)


@functools.partial(jax.jit, static_argnums=0)
def initial_params(model: Deep, key: jax.Array, inputs: jax.Array) -> Any:
    """Draw the params for inputs like these."""
    return model.init(key, None, inputs)["params"]


@functools.partial(jax.jit, static_argnums=0)
def initial_carry(model: Deep, params: Any, inputs: jax.Array) -> Any:
    """Return the carry of every row before its first step."""
    carry, _ = apply(model, params, None, inputs[:0])
    return carry


def size(params: Any) -> int:
    """How many numbers are learnt."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
