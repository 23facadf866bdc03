"""The convolutional LSTM."""

import dataclasses

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, InDim, Key, Params
from rnnjax.cell import carry_dtype
from rnnjax.cells.lstm import GatedMemoryCell, LSTMCarry
from rnnjax.initializers import per_gate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvLSTM(GatedMemoryCell):
    """LSTM over images, of which every product is a convolution (Shi et al. 2015).

    (i, f, g, o) = x_t ∗ W_x + b + h_{t−1} ∗ W_h, then as in ``LSTM``

    In one, two or three dimensions, channels last, padded with zeros to keep the size. The paper
    has peepholes too, which Keras and Flax leave out as well. Parameters, with K the kernel size
    and S the spatial shape: ``w_x`` (*K, D, 4N), ``w_h`` (*K, N, 4N), ``b`` (4N,). An input is
    (*S, D); c and h, which is the output, are (*S, N).

    Args:
        size: N, the number of channels of c and h.
        spatial_shape: S, the size of an image in each of its dimensions; a length alone for one.
        kernel_size: K, in each dimension, or one number for all.
        forget_bias: as in ``LSTM``.

    Raises:
        ValueError: when S has no or more than three dimensions, or K another number of them.

    Example:
        >>> import jax, rnnjax
        >>> cell = rnnjax.ConvLSTM(8, spatial_shape=(6, 5))
        >>> params = cell.init(jax.random.key(0), (6, 5, 3))
        >>> carry, ys = rnnjax.scan(cell, params, jax.numpy.ones((4, 2, 6, 5, 3)))
        >>> params["w_h"].shape, ys.shape
        ((3, 3, 8, 32), (4, 2, 6, 5, 8))
    """

    spatial_shape: int | tuple[int, ...]
    kernel_size: int | tuple[int, ...] = 3

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.spatial_shape, tuple):
            object.__setattr__(self, "spatial_shape", (self.spatial_shape,))
        rank = len(self.image)
        if not 1 <= rank <= 3:
            raise ValueError(
                f"ConvLSTM: spatial_shape must have one, two or three dimensions; got {self.image}."
            )
        if not isinstance(self.kernel_size, tuple):
            object.__setattr__(self, "kernel_size", (self.kernel_size,) * rank)
        if len(self.window) != rank:
            raise ValueError(
                f"ConvLSTM: kernel_size must be one number or {rank}, one for each dimension of "
                f"spatial_shape; got {self.window}."
            )
        for length in self.image:
            checks.positive_int("ConvLSTM", "spatial_shape", length)
        for length in self.window:
            checks.positive_int("ConvLSTM", "kernel_size", length)

    @property
    def image(self) -> tuple[int, ...]:
        """S."""
        return self.spatial_shape  # pyright: ignore[reportReturnType]

    @property
    def window(self) -> tuple[int, ...]:
        """K in each dimension."""
        return self.kernel_size  # pyright: ignore[reportReturnType]

    def init_kernel(self, key: Key, in_dim: InDim) -> Array:
        """Draw W_x (*K, D, 4N)."""
        shape = *self.window, self._channels(in_dim), self.size
        return per_gate(self.kernel_init, key, shape, self.gate_count, self.param_dtype)

    def init_recurrent_kernel(self, key: Key) -> Array:
        """Draw W_h (*K, N, 4N)."""
        shape = *self.window, self.size, self.size
        return per_gate(self.recurrent_kernel_init, key, shape, self.gate_count, self.param_dtype)

    def initial_carry(self, params: Params) -> LSTMCarry:
        """Return zeros (*S, N) for c and h."""
        zeros = jnp.zeros((*self.image, self.size), carry_dtype(self.compute_dtype(params)))
        return LSTMCarry(zeros, zeros)

    def encode(self, params: Params, x: Array) -> Array:
        """Return x ∗ W_x + b, (*S, D) → (*S, 4N), in the dtype of the carry."""
        u = self._convolve(params, x, "w_x")
        b = params["b"].astype(u.dtype)
        return u + jax.lax.broadcast_in_dim(b, u.shape, (u.ndim - 1,))

    def mix(self, params: Params, h: Array, u: Array) -> Array:
        """Return h ∗ W_h (*S, 4N)."""
        del u
        return self._convolve(params, h, "w_h")

    def input_shapes(self, params: Params) -> jax.ShapeDtypeStruct:
        """Return (*S, D), floating point."""
        shape = *self.image, params["w_x"].shape[-2]
        return jax.ShapeDtypeStruct(shape, self.compute_dtype(params))

    def _channels(self, in_dim: InDim) -> int:
        shape = getattr(in_dim, "shape", in_dim)
        if not isinstance(shape, tuple) or shape[:-1] != self.image:
            raise ValueError(
                f"ConvLSTM.init: in_dim must be (*spatial_shape, D), channels last, with "
                f"spatial_shape = {self.image}; got {in_dim}."
            )
        checks.positive_int("ConvLSTM.init", "in_dim", shape[-1])
        return shape[-1]

    def _convolve(self, params: Params, x: Array, name: str) -> Array:
        """Convolve in the compute dtype; the result has the dtype of the carry."""
        dtype = self.compute_dtype(params)
        axes = "DHW"[-len(self.image) :]
        images = jax.lax.conv_general_dilated(
            x.astype(dtype)[None],
            params[name].astype(dtype),
            window_strides=(1,) * len(axes),
            padding="SAME",
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        )
        return images[0].astype(carry_dtype(dtype))
