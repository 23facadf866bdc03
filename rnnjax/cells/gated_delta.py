"""The gated delta rule: a matrix for a state, with an associative operator of its own."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, InDim, Key, Params
from rnnjax.cell import Operator
from rnnjax.cells.dense import DenseInput


class DeltaInput(NamedTuple):
    """What one step writes and reads, by heads: k, q (H, K), v (H, P), α, β (H,)."""

    k: Array
    q: Array
    v: Array
    alpha: Array
    beta: Array


class DeltaMap(NamedTuple):
    """S → A S + B, by heads: A (H, K, K), B (H, K, P)."""

    a: Array
    b: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedDelta(DenseInput):
    """Gated delta rule (Yang et al. 2024): an associative memory that overwrites what it corrects.

    S_t = α_t (S_{t−1} − β_t k_t (k_tᵀ S_{t−1})) + β_t k_t v_tᵀ,  y_t = S_tᵀ q_t / √K
    k, q = silu(x W) / ‖silu(x W)‖,  v = silu(x W),  α = σ(x W + b_α),  β = σ(x W + b_β)

    for each of H heads, with S (K, P), P = N / H, and ‖a‖ = √(aᵀa + 10⁻⁶). The state is affine in
    S, but not elementwise: a step is S → A S + B with A = α (I − β k kᵀ), B = β k vᵀ, and maps add
    up as (A, B) then (A', B') = (A' A, A' B + B'), which is ``operator()``. Under ``Associative``
    that is a product of K × K matrices a step, so keep K small; ``block=`` keeps the maps of all
    steps out of memory in the forward pass. The paper's α = exp(−a softplus(·)) is σ here; the
    convolutions, norm and gate of its block stand around the cell. Parameters: ``w_x`` (D, 2HK + N
    + 2H) and ``b`` in the order k, q, v, α, β. The carry is S (H, K, P); the output is y (N,), head
    by head.

    Args:
        size: N, the width of v and of the output.
        heads: H, which divides N.
        key_size: K; None: N / H.
        forget_bias: what ``init`` writes into b_α.

    Raises:
        ValueError: when ``heads`` does not divide ``size``, or ``key_size`` is below 1.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.GatedDelta(8, heads=2)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> xs = jax.random.normal(jax.random.key(1), (5, 2, 3))
        >>> s, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative())
        >>> s.shape, ys.shape
        ((2, 2, 4, 4), (5, 2, 8))
    """

    heads: int = 1
    key_size: int | None = None
    forget_bias: float = 3.0

    affine: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("GatedDelta", "heads", self.heads)
        checks.number("GatedDelta", "forget_bias", self.forget_bias)
        if self.key_size is not None:
            checks.positive_int("GatedDelta", "key_size", self.key_size)
        if self.size % self.heads:
            raise ValueError(
                f"GatedDelta: heads must divide size = {self.size}; got {self.heads}. Use heads=1, "
                f"or another size."
            )

    @property
    def key_width(self) -> int:
        """K."""
        return self.key_size or self.size // self.heads

    def init_kernel(self, key: Key, in_dim: InDim) -> Array:
        """Draw W_x (D, 2HK + N + 2H), block by block."""
        features = checks.features("GatedDelta", in_dim)
        keys = jax.random.split(key, 5)
        blocks = zip(keys, self._widths(), strict=True)
        draw = [self.kernel_init(k, (features, width), self.param_dtype) for k, width in blocks]
        return jnp.concatenate(draw, axis=1)

    def init_bias(self, key: Key) -> Array:
        """Draw b; its α block is the forget bias."""
        b = self.bias_init(key, (sum(self._widths()),), self.param_dtype)
        return b.at[-2 * self.heads : -self.heads].set(self.forget_bias)

    def initial_carry(self, params: Params) -> Array:
        """Return zeros (H, K, P)."""
        shape = self.heads, self.key_width, self.size // self.heads
        return jnp.zeros(shape, self.zeros(params).dtype)

    def encode(self, params: Params, x: Array) -> DeltaInput:
        """Return k, q, v, α and β of one step."""
        u = super().encode(params, x)
        borders = [sum(self._widths()[:n]) for n in range(1, 5)]
        k, q, v, alpha, beta = (a.reshape(self.heads, -1) for a in jnp.split(u, borders))
        alpha, beta = (jax.nn.sigmoid(a[:, 0]) for a in (alpha, beta))
        return DeltaInput(_unit(k), _unit(q), jax.nn.silu(v), alpha, beta)

    def step(self, params: Params, carry: Array, u: DeltaInput) -> Array:
        """Return α (S − β k (kᵀ S)) + β k vᵀ."""
        del params
        found = jnp.einsum("hk,hkp->hp", u.k, carry)
        written = jnp.einsum("h,hk,hp->hkp", u.beta, u.k, u.v - u.alpha[:, None] * found)
        return u.alpha[:, None, None] * carry + written

    def readout(self, params: Params, carry: Array, u: DeltaInput) -> Array:
        """Return Sᵀ q / √K (N,) in the compute dtype."""
        y = jnp.einsum("hk,hkp->hp", u.q, carry) / self.key_width**0.5
        return y.reshape(-1).astype(self.compute_dtype(params))

    def operator(self) -> Operator:
        """Return (A, B) of a step, (A' A, A' B + B') of two, and A S + B."""
        return Operator(_element, _combine, _apply)

    def _widths(self) -> tuple[int, ...]:
        keys = self.heads * self.key_width
        return keys, keys, self.size, self.heads, self.heads


def _element(params: Params, u: DeltaInput) -> DeltaMap:
    del params
    eye = jnp.eye(u.k.shape[-1], dtype=u.k.dtype)[None]
    outer = jnp.einsum("h,hk,hl->hkl", u.beta, u.k, u.k)
    written = jnp.einsum("h,hk,hp->hkp", u.beta, u.k, u.v)
    return DeltaMap(u.alpha[:, None, None] * (eye - outer), written)


def _combine(earlier: DeltaMap, later: DeltaMap) -> DeltaMap:
    return DeltaMap(later.a @ earlier.a, later.a @ earlier.b + later.b)


def _apply(e: DeltaMap, carry: Carry) -> Carry:
    return e.a @ carry + e.b


def _unit(a: Array) -> Array:
    """Return silu(a) of length 1 on the last axis, and 0 for 0."""
    a = jax.nn.silu(a)
    return a * jax.lax.rsqrt(jnp.sum(a * a, axis=-1, keepdims=True) + 1e-6)
