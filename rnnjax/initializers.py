"""Initialisers as values: frozen dataclasses, so that a cell that holds one hashes and compares.

Each is called as ``initializer(key, shape, dtype)``, the signature of ``jax.nn.initializers``; any
hashable function with that signature is accepted where one of these is.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, DTypeLike, Key

Initializer: TypeAlias = Callable[[Key, Sequence[int], DTypeLike], Array]


@dataclasses.dataclass(frozen=True)
class GlorotUniform:
    """U(−a, a) with a = √(6 / (fan_in + fan_out)) (Glorot & Bengio 2010).

    Example:
        >>> import jax
        >>> from rnnjax.initializers import GlorotUniform
        >>> GlorotUniform()(jax.random.key(0), (3, 5), "float32").shape
        (3, 5)
    """

    def __call__(self, key: Key, shape: Sequence[int], dtype: DTypeLike) -> Array:
        return jax.nn.initializers.glorot_uniform()(key, tuple(shape), jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """A random orthogonal matrix times ``scale`` (Saxe et al. 2014): ‖Wh‖ = scale · ‖h‖.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rnnjax.initializers import Orthogonal
        >>> w = Orthogonal(0.9)(jax.random.key(0), (4, 4), "float32")
        >>> bool(jnp.allclose(w @ w.T, 0.81 * jnp.eye(4), atol=1e-6))
        True
    """

    scale: float = 1.0

    def __call__(self, key: Key, shape: Sequence[int], dtype: DTypeLike) -> Array:
        # The QR decomposition behind it exists from float32 up.
        with jax.numpy_dtype_promotion("standard"):
            wide = jnp.promote_types(dtype, jnp.float32)
        drawn = jax.nn.initializers.orthogonal(self.scale)(key, tuple(shape), wide)
        return drawn.astype(jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Identity:
    """``scale`` times the identity, for the recurrent kernel of an IRNN (Le et al. 2015).

    Example:
        >>> import jax
        >>> from rnnjax.initializers import Identity
        >>> Identity()(jax.random.key(0), (2, 2), "float32").tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    scale: float = 1.0

    def __call__(self, key: Key, shape: Sequence[int], dtype: DTypeLike) -> Array:
        del key
        return self.scale * jnp.eye(*shape, dtype=jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same number everywhere.

    Example:
        >>> import jax
        >>> from rnnjax.initializers import Constant
        >>> Constant(1.0)(jax.random.key(0), (3,), "float32").tolist()
        [1.0, 1.0, 1.0]
    """

    value: float = 0.0

    def __call__(self, key: Key, shape: Sequence[int], dtype: DTypeLike) -> Array:
        del key
        return jnp.full(tuple(shape), self.value, jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Chrono:
    """Gate biases b = log U[1, t_max − 1] for memory of up to t_max steps (Tallec & Ollivier 2018).

    A unit whose keeping gate has bias b forgets at the rate 1 / (1 + eᵇ), so memory spans are
    spread uniformly up to t_max. As ``LSTM(forget_bias=Chrono(t_max))`` it writes b into the f
    block and −b into the i block; as ``GRU(update_bias=Chrono(t_max))`` it writes b into the z
    block.

    Raises:
        ValueError: when ``t_max`` is not greater than 2.

    Example:
        >>> import jax
        >>> from rnnjax.initializers import Chrono
        >>> b = Chrono(t_max=200)(jax.random.key(0), (64,), "float32")
        >>> bool((b >= 0).all() and (b <= jax.numpy.log(199.0)).all())
        True
    """

    t_max: float

    def __post_init__(self):
        if not self.t_max > 2:
            raise ValueError(
                f"Chrono: t_max must be greater than 2 steps, so that U[1, t_max − 1] is an "
                f"interval; got {self.t_max}. Use the length of the longest dependency in the data."
            )

    def __call__(self, key: Key, shape: Sequence[int], dtype: DTypeLike) -> Array:
        spans = jax.random.uniform(
            key, tuple(shape), jnp.dtype(dtype), minval=1.0, maxval=self.t_max - 1.0
        )
        return jnp.log(spans)


@dataclasses.dataclass(frozen=True)
class GradientRange:
    """Recurrent weights U[low^(1/T), high^(1/T)] of single units (Li et al. 2018).

    A unit that sees itself alone, h_t = relu(a ⊙ h_{t−1} + u_t), multiplies a gradient by aᵀ over T
    active steps; so what reaches the first step lies between ``low`` and ``high`` times it. Li et
    al. take high = 2, and low = 0 in all layers but the last.

    Raises:
        ValueError: unless steps ≥ 1 and 0 ≤ low < high.

    Example:
        >>> import jax
        >>> from rnnjax.initializers import GradientRange
        >>> a = GradientRange(steps=784, low=0.5, high=2.0)(jax.random.key(0), (64,), "float32")
        >>> bool((a**784 >= 0.499).all() and (a**784 <= 2.001).all())
        True
    """

    steps: float = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if not (self.steps >= 1 and 0 <= self.low < self.high):
            raise ValueError(
                f"GradientRange: steps must be at least 1 and 0 ≤ low < high; got steps = "
                f"{self.steps}, low = {self.low}, high = {self.high}."
            )

    def __call__(self, key: Key, shape: Sequence[int], dtype: DTypeLike) -> Array:
        low, high = (factor ** (1 / self.steps) for factor in (self.low, self.high))
        return jax.random.uniform(key, tuple(shape), jnp.dtype(dtype), low, high)


def per_gate(
    initializer: Initializer, key: Key, shape: tuple[int, ...], gates: int, dtype: DTypeLike
) -> Array:
    """Draw one (…, N) block a gate and put them side by side: (…, gates · N).

    Fans and orthogonality belong to the block that one gate sees, not to the matrix that holds all.

    Example:
        >>> import jax
        >>> from rnnjax.initializers import Orthogonal, per_gate
        >>> per_gate(Orthogonal(), jax.random.key(0), (4, 4), gates=3, dtype="float32").shape
        (4, 12)
    """
    keys = jax.random.split(key, gates)
    return jnp.concatenate([initializer(k, shape, dtype) for k in keys], axis=-1)
