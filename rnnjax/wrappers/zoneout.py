"""Noise on what a step leaves behind."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, Params, PyTree
from rnnjax.cell import Keyed
from rnnjax.wrappers.base import Beside, Wrapper


@dataclasses.dataclass(frozen=True)
class Zoneout(Wrapper):
    """Keep each entry of the carry as it was with probability ``rate`` (Krueger et al. 2017).

    h_t = m ⊙ h_{t−1} + (1 − m) ⊙ step(h_{t−1}, u_t),  m ~ Bernoulli(rate)

    With keys (``rnnjax.with_keys``) m is drawn afresh for each step, row and entry; without, m is
    its mean, the paper's form for evaluation. Leaves of the carry that are not floating point or
    complex take the step as it is.

    Args:
        cell: the cell inside.
        rate: a probability for the whole carry, or a tuple of one for each leaf of the carry, in
            the order of ``jax.tree.leaves`` (the paper's LSTM: ``(0.5, 0.05)`` for c and h).

    Raises:
        ValueError: when a rate is outside [0, 1), or their number is not that of the leaves.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.Zoneout(rnnjax.LSTM(8), rate=(0.5, 0.05))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> carry, ys = rnnjax.scan(cell, params, rnnjax.with_keys(jax.random.key(1), xs))
        >>> carry, ys_of_evaluation = rnnjax.scan(cell, params, xs)
        >>> ys.shape
        (5, 2, 8)
    """

    rate: float | tuple[float, ...] = 0.1

    @property
    def noisy(self) -> bool:
        """True: m is drawn from keys."""
        return True

    def __post_init__(self):
        super().__post_init__()
        for rate in self.rate if isinstance(self.rate, tuple) else (self.rate,):
            checks.probability("Zoneout", "rate", rate)

    def inner(self, u: Beside) -> PyTree:
        """Return the u of the cell inside."""
        return u.u

    def encode(self, params: Params, x: PyTree) -> Beside:
        """Draw m beside the u of the cell inside, where there is a key; else None."""
        if not isinstance(x, Keyed):
            return Beside(super().encode(params, x), None)
        inner = Keyed(x.x, jax.random.fold_in(x.key, 1))
        carry = self.initial_carry(params)
        keys = jax.random.split(jax.random.fold_in(x.key, 0), len(jax.tree.leaves(carry)))
        # A float32 rate, so that the draw is the same whether 64-bit numbers are enabled or not.
        draw = jax.tree.map(
            lambda leaf, rate, key: jax.random.bernoulli(key, np.float32(rate), leaf.shape),
            carry,
            self._rates(carry),
            jax.tree.unflatten(jax.tree.structure(carry), list(keys)),
        )
        return Beside(super().encode(params, inner), draw)

    def settle(self, carry: Carry, next_carry: Carry, u: Beside) -> Carry:
        """Blend the carries before and after the step."""

        def blend(old: Array, new: Array, m: Any) -> Array:
            if not jnp.issubdtype(new.dtype, jnp.inexact):
                return new
            # Selected and not multiplied, so that what is dropped reaches no gradient.
            return m * old + (1 - m) * new if isinstance(m, float) else jnp.where(m, old, new)

        m = self._rates(carry) if u.own is None else u.own
        return jax.tree.map(blend, carry, next_carry, m)

    def _rates(self, carry: Carry) -> PyTree:
        """Return a rate for each leaf of the carry."""
        structure = jax.tree.structure(carry)
        count = structure.num_leaves
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,) * count
        if len(rates) != count:
            raise ValueError(
                f"Zoneout: rate must be one number or {count}, one for each leaf of the carry of "
                f"{checks.describe(self.cell)}; got {self.rate}."
            )
        return jax.tree.unflatten(structure, [float(rate) for rate in rates])
