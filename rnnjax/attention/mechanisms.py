"""Attention mechanisms: how a query weighs the positions of one row's memory."""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, DTypeLike, Float, Key, Params
from rnnjax.cell import carry_dtype, product
from rnnjax.initializers import GlorotUniform, Initializer


class Memory(NamedTuple):
    """What attention reads: made once a sequence by ``prepare``, the same for every query."""

    values: Float[Array, "S M"]
    """(S, M), zero where masked."""
    keys: Float[Array, "S K"] | None
    """(S, K), what a query is compared with; None where that is the values themselves."""
    mask: Bool[Array, " S"]
    """(S,), False where there is nothing to attend to."""


class Attended(NamedTuple):
    """What one query found."""

    context: Float[Array, " M"]
    """(M,), the context vector Σ_s a_s m_s."""
    weights: Float[Array, " S"]
    """(S,), a: of sum 1, zero where masked; all zero where everything is."""


# So that an exported program may take and return them.
for _kind in (Memory, Attended):
    jax.export.register_namedtuple_serialization(_kind, serialized_name=f"rnnjax.{_kind.__name__}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention(abc.ABC):
    """A score for each position of a memory, and the mean of the memory by their softmax.

    a = softmax over the unmasked s of score(q, m_s),  c = Σ_s a_s m_s

    A value with pure methods that see one row, as a cell is; arrays live in ``params``, a dict. A
    mechanism of your own has ``init``, ``keys`` and ``scores``. What does not depend on the query
    belongs in ``keys``, which ``prepare`` computes once a sequence.

    Args:
        kernel_init: initialiser of each matrix.
        dtype: compute dtype of products, in which the memory is kept; None: that of the memory.
        param_dtype: dtype of the parameters.

    Raises:
        TypeError: when a field is of the wrong kind.
    """

    kernel_init: Initializer = GlorotUniform()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = "float32"

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_static(cls)

    def __post_init__(self):
        owner = type(self).__name__
        checks.function(owner, "kernel_init", self.kernel_init)
        if self.param_dtype is None:
            raise TypeError(f"{owner}: param_dtype must be a dtype; got None.")
        for name in ("dtype", "param_dtype"):
            dtype = checks.inexact_dtype(owner, name, getattr(self, name))
            object.__setattr__(self, name, dtype)

    @abc.abstractmethod
    def init(self, key: Key, query_dim: int, memory_dim: int) -> Params:
        """Draw the parameters for queries (N,) and memories (S, M)."""

    @abc.abstractmethod
    def keys(self, params: Params, values: Float[Array, "S M"]) -> Float[Array, "S K"] | None:
        """Return what a query is compared with, (S, K); None: the values themselves."""

    @abc.abstractmethod
    def scores(
        self, params: Params, query: Float[Array, " N"], keys: Float[Array, "S K"]
    ) -> Float[Array, " S"]:
        """Return a score for each position."""

    @abc.abstractmethod
    def key_dim(self, memory_dim: int) -> int | None:
        """Return K; None where the keys are the values."""

    def kernel(self, key: Key, *shape: int) -> Array:
        """Draw one matrix."""
        return self.kernel_init(key, shape, self.param_dtype)

    def prepare(
        self, params: Params, values: Float[Array, "S M"], mask: Bool[Array, " S"] | None = None
    ) -> Memory:
        """Return the memory of one row, its keys computed.

        Args:
            params: what ``init`` returned.
            values: (S, M), such as an encoder's outputs.
            mask: (S,); what stands where it is False, NaN included, reaches neither values nor
                gradients. None: everything is read.
        """
        mask = jnp.ones(values.shape[:1], bool) if mask is None else mask
        # Selected before any product, in whose gradient 0 · NaN would be NaN.
        values = jnp.where(mask[:, None], values, jnp.zeros((), values.dtype))
        values = values.astype(self.dtype or values.dtype)
        return Memory(values, self.keys(params, values), mask)

    def attend(self, params: Params, query: Float[Array, " N"], memory: Memory) -> Attended:
        """Return the context vector (M,) and the weights (S,), in at least float32."""
        keys = memory.values if memory.keys is None else memory.keys
        scores = self.scores(params, query, keys).astype(carry_dtype(memory.values.dtype))
        weights = _masked_softmax(scores, memory.mask)
        return Attended(product(weights, memory.values), weights)

    def memory_shapes(self, memory_dim: int, positions: int = 3) -> Memory:
        """Return the ``jax.ShapeDtypeStruct`` of the memory of one row."""
        key_dim = self.key_dim(memory_dim)

        def shape(*sizes: int, dtype: DTypeLike = self.dtype or jnp.float32) -> Any:
            return jax.ShapeDtypeStruct((positions, *sizes), dtype)

        keys = None if key_dim is None else shape(key_dim)
        return Memory(shape(memory_dim), keys, shape(dtype=jnp.bool_))


def _masked_softmax(scores: Float[Array, " S"], mask: Bool[Array, " S"]) -> Float[Array, " S"]:
    """Return the softmax over what is unmasked, zero elsewhere; all zero where nothing is left."""
    # The lowest finite number and not −∞, which would leave NaN in a row without anything unmasked.
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    return jnp.where(mask, weights, jnp.zeros((), weights.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdditiveAttention(Attention):
    """Additive attention (Bahdanau, Cho and Bengio 2015).

    score(q, m_s) = v · tanh(q W_q + m_s W_k + b)

    The paper has no b, nor has this without ``bias_init``. Parameters: ``w_q`` (N, K), ``w_k``
    (M, K), ``v`` (K,), and ``b`` (K,) with ``bias_init``.

    Args:
        size: K, the width of the layer between query and score.
        bias_init: initialiser of b; None: no b.

    Example:
        >>> import jax, rnnjax
        >>> attention = rnnjax.AdditiveAttention(8)
        >>> params = attention.init(jax.random.key(0), query_dim=4, memory_dim=6)
        >>> memory = attention.prepare(params, jax.numpy.ones((5, 6)))
        >>> context, weights = attention.attend(params, jax.numpy.ones((4,)), memory)
        >>> context.shape, weights.shape
        ((6,), (5,))
    """

    size: int = dataclasses.field(kw_only=False)
    bias_init: Initializer | None = None

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("AdditiveAttention", "size", self.size)
        if self.bias_init is not None:
            checks.function("AdditiveAttention", "bias_init", self.bias_init)

    def init(self, key: Key, query_dim: int, memory_dim: int) -> Params:
        """Draw the parameters."""
        k_q, k_k, k_v, k_b = jax.random.split(key, 4)
        params = {
            "w_q": self.kernel(k_q, query_dim, self.size),
            "w_k": self.kernel(k_k, memory_dim, self.size),
            "v": self.kernel(k_v, self.size, 1)[:, 0],
        }
        if self.bias_init is None:
            return params
        return {**params, "b": self.bias_init(k_b, (self.size,), self.param_dtype)}

    def key_dim(self, memory_dim: int) -> int:
        """Return K."""
        del memory_dim
        return self.size

    def keys(self, params: Params, values: Float[Array, "S M"]) -> Float[Array, "S K"]:
        """Return m_s W_k + b, in the dtype of the values."""
        keys = product(values, params["w_k"].astype(values.dtype))
        if self.bias_init is not None:
            keys += params["b"].astype(keys.dtype)[None]
        return keys.astype(values.dtype)

    def scores(
        self, params: Params, query: Float[Array, " N"], keys: Float[Array, "S K"]
    ) -> Float[Array, " S"]:
        """Return v · tanh(q W_q + keys)."""
        from_query = product(query, params["w_q"].astype(keys.dtype))
        hidden = jnp.tanh(from_query[None] + keys.astype(from_query.dtype))
        return product(hidden, params["v"].astype(keys.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiplicativeAttention(Attention):
    """Multiplicative attention (Luong, Pham and Manning 2015: "general").

    score(q, m_s) = q · (m_s W_k)

    Parameters: ``w_k`` (M, N).

    Args:
        size: N, the width of the query.

    Raises:
        ValueError: by ``init``, when queries have another width.

    Example:
        >>> import jax, rnnjax
        >>> attention = rnnjax.MultiplicativeAttention(4)
        >>> params = attention.init(jax.random.key(0), query_dim=4, memory_dim=6)
        >>> memory = attention.prepare(params, jax.numpy.ones((5, 6)))
        >>> memory.keys.shape, attention.attend(params, jax.numpy.ones((4,)), memory).context.shape
        ((5, 4), (6,))
    """

    size: int = dataclasses.field(kw_only=False)

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("MultiplicativeAttention", "size", self.size)

    def init(self, key: Key, query_dim: int, memory_dim: int) -> Params:
        """Draw the parameters."""
        if query_dim != self.size:
            raise ValueError(
                f"MultiplicativeAttention: size must be the width of the query, {query_dim}; got "
                f"{self.size}. AdditiveAttention takes any size."
            )
        return {"w_k": self.kernel(key, memory_dim, self.size)}

    def key_dim(self, memory_dim: int) -> int:
        """Return N."""
        del memory_dim
        return self.size

    def keys(self, params: Params, values: Float[Array, "S M"]) -> Float[Array, "S K"]:
        """Return m_s W_k, in the dtype of the values."""
        return product(values, params["w_k"].astype(values.dtype)).astype(values.dtype)

    def scores(
        self, params: Params, query: Float[Array, " N"], keys: Float[Array, "S K"]
    ) -> Float[Array, " S"]:
        """Return q · keys."""
        del params
        return product(query, keys.T)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotAttention(Attention):
    """Dot-product attention (Luong, Pham and Manning 2015: "dot"): query and memory as they are.

    score(q, m_s) = scale · q · m_s

    No parameters, and no keys to keep beside the values.

    Args:
        scale: 1, or 1 / √M as Vaswani et al. 2017 have it.

    Raises:
        ValueError: by ``init``, when query and memory differ in width.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> attention = rnnjax.DotAttention(scale=10.0)
        >>> memory = attention.prepare({}, jnp.eye(3), mask=jnp.array([True, True, False]))
        >>> attention.attend({}, jnp.array([0.0, 1.0, 1.0]), memory).weights.round(3).tolist()
        [0.0, 1.0, 0.0]
    """

    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        checks.positive_number("DotAttention", "scale", self.scale)

    def init(self, key: Key, query_dim: int, memory_dim: int) -> Params:
        """Return no parameters."""
        del key
        if query_dim != memory_dim:
            raise ValueError(
                f"DotAttention: query and memory must have one width; got {query_dim} and "
                f"{memory_dim}. MultiplicativeAttention({query_dim}) puts a matrix in between."
            )
        return {}

    def key_dim(self, memory_dim: int) -> None:
        """Return None: the keys are the values."""
        del memory_dim

    def keys(self, params: Params, values: Float[Array, "S M"]) -> None:
        """Return None: the keys are the values."""
        del params, values

    def scores(
        self, params: Params, query: Float[Array, " N"], keys: Float[Array, "S K"]
    ) -> Float[Array, " S"]:
        """Return scale · q · keys."""
        del params
        return self.scale * product(query, keys.T)
