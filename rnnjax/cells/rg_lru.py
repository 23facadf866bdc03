"""The real-gated linear recurrent unit of Griffin."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cell import product
from rnnjax.cells.dense import DenseInput, HiddenVector
from rnnjax.initializers import per_gate


class GatedInput(NamedTuple):
    """u = x_t W_x + b (2N,), r before i, and the input x_t (N,) that i lets in."""

    u: Array
    x: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RGLRU(HiddenVector, DenseInput):
    """Real-gated linear recurrent unit (De et al. 2024, Griffin): each unit forgets by its input.

    (r, i) = σ(x_t W_x + b)
    log a_t = −c · softplus(ν) ⊙ r
    h_t = a_t ⊙ h_{t−1} + √(1 − a_t²) ⊙ i ⊙ x_t

    The input is as wide as the state, D = N. W_x is block-diagonal: each of the H heads reads K =
    N / H features. exp(−c · softplus(ν)), what a unit keeps at least, starts uniform in
    [a_min, a_max]. In RecurrentGemma the first step of a sequence leaves out the square root; here
    all steps are alike. The convolution and the projections of its block stand around the cell.
    Parameters: ``w_x`` (H, K, 2K), ``b`` (2N,), in the order r, i, and ``nu`` (N,). The carry and
    the output are h (N,).

    Args:
        heads: H, which divides N.
        c: how much a gate can shorten a memory.
        a_min: the least factor at initialisation.
        a_max: the greatest.

    Raises:
        ValueError: when ``heads`` does not divide ``size``, or unless 0 < a_min < a_max < 1.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.RGLRU(8, heads=2)
        >>> params = cell.init(jax.random.key(0), 8)
        >>> xs = jax.numpy.ones((5, 2, 8))
        >>> h, ys = rnnjax.scan(cell, params, xs, strategy=rnnjax.Associative())
        >>> ys.shape
        (5, 2, 8)
    """

    heads: int = 1
    c: float = 8.0
    a_min: float = 0.9
    a_max: float = 0.999

    gate_order: ClassVar[str] = "ri"
    affine: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("RGLRU", "heads", self.heads)
        checks.positive_number("RGLRU", "c", self.c)
        for name in ("a_min", "a_max"):
            checks.number("RGLRU", name, getattr(self, name))
        if self.size % self.heads:
            raise ValueError(
                f"RGLRU: heads must divide size = {self.size}; got {self.heads}. Use heads=1, or "
                f"another size."
            )
        if not 0 < self.a_min < self.a_max < 1:
            raise ValueError(
                f"RGLRU: a must start inside the unit disc, 0 < a_min < a_max < 1; got a_min = "
                f"{self.a_min}, a_max = {self.a_max}."
            )

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters.

        Raises:
            ValueError: when ``in_dim`` is not N features.
        """
        k_dense, k_nu = jax.random.split(key)
        a = jax.random.uniform(k_nu, (self.size,), self.param_dtype, self.a_min, self.a_max)
        # softplus(ν) = −log(a) / c
        return {**super().init(k_dense, in_dim), "nu": jnp.log(jnp.expm1(-jnp.log(a) / self.c))}

    def init_kernel(self, key: Key, in_dim: InDim) -> Array:
        """Draw W_x (H, K, 2K), head by head."""
        features = checks.features("RGLRU", in_dim)
        if features != self.size:
            raise ValueError(
                f"RGLRU: in_dim must be size = {self.size}, because the state takes in x itself; "
                f"got {features}. Put a projection in front."
            )
        shape = self.size // self.heads, self.size // self.heads
        keys = jax.random.split(key, self.heads)
        draw = [per_gate(self.kernel_init, k, shape, 2, self.param_dtype) for k in keys]
        return jnp.stack(draw)

    def encode(self, params: Params, x: Array) -> GatedInput:
        """Return x W_x + b (2N,), head by head, and x."""
        kernels = params["w_x"].astype(self.compute_dtype(params))
        gates = jax.vmap(product)(x.reshape(self.heads, -1), kernels)  # (H, 2K)
        u = gates.reshape(self.heads, 2, -1).swapaxes(0, 1).reshape(-1)
        return GatedInput(u + params["b"].astype(u.dtype), x)

    def step(self, params: Params, carry: Array, u: GatedInput) -> Array:
        """Return a ⊙ h + √(1 − a²) ⊙ i ⊙ x."""
        gates = self.gates(params, carry, u)
        log_a = -self.c * jax.nn.softplus(params["nu"].astype(carry.dtype)) * gates["r"]
        left = -jnp.expm1(2.0 * log_a)
        # √ has no derivative at 0, where a gate underflows.
        root = jnp.where(left > 0, jnp.sqrt(jnp.where(left > 0, left, 1.0)), 0.0)
        return jnp.exp(log_a) * carry + root * gates["i"] * u.x.astype(carry.dtype)

    def gates(self, params: Params, carry: Array, u: GatedInput) -> dict[str, Array]:
        """Return r and i, each (N,)."""
        del params, carry
        r, i = jnp.split(jax.nn.sigmoid(u.u), 2)
        return {"r": r, "i": i}

    def input_shapes(self, params: Params) -> jax.ShapeDtypeStruct:
        """Return (N,), floating point."""
        return jax.ShapeDtypeStruct((self.size,), self.compute_dtype(params))
