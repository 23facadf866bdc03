"""Dropout of what a cell reads, of its recurrent hidden vector and of its recurrent kernel."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, Key, Params, PyTree
from rnnjax.cell import Gated, Keyed
from rnnjax.wrappers.base import Wrapper


@dataclasses.dataclass(frozen=True)
class Dropout(Wrapper):
    """Drop entries of the input afresh at each step (Zaremba et al. 2014).

    u_t = encode(m_t ⊙ x_t / (1 − rate)),  m_t ~ Bernoulli(1 − rate)

    Around every layer of a ``Stack`` but the first it is dropout between layers. With keys
    (``rnnjax.with_keys``) m is drawn for each step, row and entry; without, nothing is dropped.

    Args:
        cell: the cell inside.
        rate: the probability that an entry is dropped.

    Raises:
        ValueError: when the rate is outside [0, 1).

    Example:
        >>> import jax, rnnjax
        >>> stack = rnnjax.Stack((rnnjax.LSTM(8), rnnjax.Dropout(rnnjax.LSTM(8), rate=0.5)))
        >>> params = stack.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> carry, ys = rnnjax.scan(stack, params, rnnjax.with_keys(jax.random.key(1), xs))
        >>> carry, ys_of_evaluation = rnnjax.scan(stack, params, xs)
    """

    rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        checks.probability("Dropout", "rate", self.rate)

    @property
    def noisy(self) -> bool:
        """True: m is drawn from keys."""
        return True

    def encode(self, params: Params, x: PyTree) -> PyTree:
        """Encode as the cell inside does what is left of x."""
        if not isinstance(x, Keyed):
            return super().encode(params, x)
        leaves, structure = jax.tree.flatten(x.x)
        keys = jax.random.split(jax.random.fold_in(x.key, 0), len(leaves))
        kept = [_drop(key, self.rate, leaf) for key, leaf in zip(keys, leaves, strict=True)]
        inner = Keyed(jax.tree.unflatten(structure, kept), jax.random.fold_in(x.key, 1))
        return super().encode(params, inner)


class DropoutMasks(NamedTuple):
    """What one sequence keeps, 0 or 1 / (1 − rate) a feature; None where nothing is dropped."""

    x: Array | None  # (D,)
    h: Array | None  # (N,)


@dataclasses.dataclass(frozen=True)
class VariationalDropout(Wrapper):
    """Drop the same input features and hidden units at every step (Gal and Ghahramani 2016).

    u_t = encode(m_x ⊙ x_t),  r_t = mix(m_h ⊙ h_{t−1}),  h_t = update(h_{t−1}, u_t, r_t)

    The masks are drawn once a sequence by ``rnnjax.sequence_noise``, (B, D) and (B, N), each entry
    0 or 1 / (1 − rate), and passed as context; without them nothing is dropped. Only what the
    recurrent product reads is masked, so memory that passes by it, an LSTM's c, is left whole. Of
    an input of more axes the last one is the features, and the others share the mask.

    Args:
        cell: the cell inside; gated, where hidden units are to be dropped.
        input_rate: the probability that a feature of the input is dropped.
        hidden_rate: the same of a hidden unit.
        name: under which the context holds the masks; layers of a ``Stack`` need different ones.

    Raises:
        TypeError: when the name is not a string.
        ValueError: when a rate is outside [0, 1), when hidden units are to be dropped in a cell
            that is not gated, or when a mask does not fit.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.VariationalDropout(rnnjax.LSTM(8), input_rate=0.2, hidden_rate=0.3)
        >>> params = cell.init(jax.random.key(0), 4)
        >>> xs = jax.numpy.ones((5, 2, 4))
        >>> noise = rnnjax.sequence_noise(jax.random.key(1), cell, params, batch=2)
        >>> carry, ys = rnnjax.scan(cell, params, xs, context=noise)
        >>> carry, ys_of_evaluation = rnnjax.scan(cell, params, xs)
        >>> noise["dropout"].x.shape, noise["dropout"].h.shape
        ((2, 4), (2, 8))
    """

    input_rate: float = 0.1
    hidden_rate: float = 0.1
    name: str = "dropout"

    def __post_init__(self):
        super().__post_init__()
        checks.probability("VariationalDropout", "input_rate", self.input_rate)
        checks.probability("VariationalDropout", "hidden_rate", self.hidden_rate)
        checks.string("VariationalDropout", "name", self.name)
        if self.hidden_rate and self.cell.gated() is None:
            raise ValueError(
                f"VariationalDropout: hidden_rate must be 0 for a cell that is not gated; got "
                f"{self.hidden_rate} for {checks.describe(self.cell)}. Drop entries of its "
                f"recurrent kernel instead: rnnjax.drop_connect."
            )

    def encode(self, params: Params, x: PyTree) -> PyTree:
        """Encode as the cell inside does the features that are kept."""
        bare = x.x if isinstance(x, Keyed) else x
        kept = _keep(self._masks(params).x, bare, f"context[{self.name!r}].x", "the input")
        return super().encode(params, Keyed(kept, x.key) if isinstance(x, Keyed) else kept)

    def step(self, params: Params, carry: Carry, u: PyTree) -> Carry:
        """Take the parts of ``gated()`` in turn; a cell that is not gated steps as it is."""
        gated = self.gated()
        if gated is None:
            return super().step(params, carry, u)
        return gated.update(params, carry, u, gated.mix(params, gated.hidden(carry), u))

    def gated(self) -> Gated | None:
        """Return the parts of the cell inside, the product with the hidden units that are kept."""
        gated = super().gated()
        if gated is None:
            return None

        def mix(params: Params, h: PyTree, u: PyTree) -> PyTree:
            kept = _keep(self._masks(params).h, h, f"context[{self.name!r}].h", "the hidden vector")
            return gated.mix(params, kept, u)

        return gated._replace(mix=mix)

    def sequence_noise(self, key: Key, params: Params) -> dict[str, PyTree]:
        """Draw the masks of one sequence, beside what the cell inside draws."""
        k_x, k_h, k_inner = jax.random.split(key, 3)
        masks = DropoutMasks(
            self._draw(k_x, self.input_rate, "input", self.cell.input_shapes(params)),
            self._draw(k_h, self.hidden_rate, "hidden", self._hidden_shape(params)),
        )
        return {**super().sequence_noise(k_inner, params), self.name: masks}

    def _draw(self, key: Key, rate: float, which: str, shape: Any) -> Array | None:
        if not rate:
            return None
        if len(jax.tree.leaves(shape)) != 1:
            raise ValueError(
                f"VariationalDropout: {which}_rate must be 0 for {checks.describe(self.cell)}, "
                f"which does not say that its {which} is one array; got {rate}. A cell of your own "
                f"says it in input_shapes."
            )
        [leaf] = jax.tree.leaves(shape)
        return _drop(key, rate, jnp.ones(leaf.shape[-1:], jnp.float32))

    def _hidden_shape(self, params: Params) -> Any:
        gated = self.cell.gated()
        if gated is None:
            return None
        return jax.eval_shape(lambda p: gated.hidden(self.cell.initial_carry(p)), params)

    def _masks(self, params: Params) -> DropoutMasks:
        return params.get("context", {}).get(self.name, DropoutMasks(None, None))


def drop_connect(
    key: Key, params: PyTree, rate: float, names: tuple[str, ...] = ("w_h",)
) -> PyTree:
    """Drop entries of the recurrent kernels (Wan et al. 2013; Merity et al. 2017, AWD-LSTM).

    W ↦ M ⊙ W / (1 − rate),  M ~ Bernoulli(1 − rate)

    Call it in the loss, once a batch: all rows and steps then share the weights that are left, so
    the kernels are the only thing that changes and any cell runs under any strategy. For evaluation
    leave it out. Under ``jax.grad`` what is dropped has no gradient.

    Args:
        key: of the draw.
        params: of any cell or model, nested or not.
        rate: the probability that an entry is dropped.
        names: of the leaves, as the innermost dict has them.

    Returns:
        Params of the same structure, shapes and dtypes.

    Raises:
        TypeError: when ``names`` is not a tuple of strings.
        ValueError: when the rate is outside [0, 1), or when there is no leaf of a name.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.Stack((rnnjax.LSTM(8), rnnjax.GRU(8)))
        >>> params = cell.init(jax.random.key(0), 4)
        >>> dropped = rnnjax.drop_connect(jax.random.key(1), params, 0.5)
        >>> carry, ys = rnnjax.scan(cell, dropped, jax.numpy.ones((5, 2, 4)))
        >>> bool((dropped["layers"][1]["w_h"] == 0).any())
        True
    """
    checks.key("drop_connect", "key", key)
    checks.probability("drop_connect", "rate", rate)
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"drop_connect: names must be a tuple of strings; got {names!r}.")
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    found = [getattr(path[-1], "key", None) if path else None for path, _ in leaves]
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"drop_connect: params must have a leaf {missing[0]!r}; these have "
            f"{sorted({str(name) for name in found})}. Say which are dropped: names=(…,)."
        )
    dropped = [
        _drop(jax.random.fold_in(key, k), rate, leaf) if name in names else leaf
        for k, (name, (_, leaf)) in enumerate(zip(found, leaves, strict=True))
    ]
    return jax.tree.unflatten(structure, dropped)


def _drop(key: Key, rate: float, leaf: Array) -> Array:
    """Zero entries with probability ``rate`` and scale the others, so that the mean stays."""
    if not rate or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    # A float32 rate, so that the draw is the same whether 64-bit numbers are enabled or not.
    kept = jax.random.bernoulli(key, np.float32(1 - rate), leaf.shape)
    return jnp.where(kept, leaf / (1 - rate), jnp.zeros_like(leaf))


def _keep(mask: Array | None, a: PyTree, name: str, masked: str) -> PyTree:
    """Multiply the last axis of the one array in a by the mask."""
    if mask is None:
        return a

    def keep(leaf: Array) -> Array:
        if mask.shape != leaf.shape[-1:]:
            raise ValueError(
                f"VariationalDropout: {name} must have a row {leaf.shape[-1:]}, the features of "
                f"{masked}; got {mask.shape}. rnnjax.sequence_noise draws it."
            )
        return leaf * jnp.expand_dims(mask, range(leaf.ndim - 1)).astype(leaf.dtype)

    return jax.tree.map(keep, a)
