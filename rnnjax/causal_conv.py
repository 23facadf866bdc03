"""A short depthwise convolution over time, as blocks of linear cells put before the cell."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, DTypeLike, Float, Int, Key, Params
from rnnjax.cell import carry_dtype
from rnnjax.placement import shard_batch
from rnnjax.scan import valid_steps


def init_causal_conv(
    key: Key, in_dim: int, width: int = 4, *, param_dtype: DTypeLike = "float32"
) -> Params:
    """Draw the parameters of ``causal_conv``: w from U(−1/√K, 1/√K), b zero.

    Args:
        key: of the draw.
        in_dim: D.
        width: K, the number of steps that an output sees.
        param_dtype: dtype of the parameters.

    Returns:
        ``w`` (K, D), w[k] for the step k steps ago, and ``b`` (D,).

    Raises:
        ValueError: when ``in_dim`` or ``width`` is below 1.

    Example:
        >>> import jax, rnnjax
        >>> rnnjax.init_causal_conv(jax.random.key(0), 8)["w"].shape
        (4, 8)
    """
    checks.key("init_causal_conv", "key", key)
    checks.positive_int("init_causal_conv", "in_dim", in_dim)
    checks.positive_int("init_causal_conv", "width", width)
    limit = width**-0.5
    w = jax.random.uniform(key, (width, in_dim), param_dtype, -limit, limit)
    return {"w": w, "b": jnp.zeros((in_dim,), param_dtype)}


def causal_conv(
    params: Params,
    xs: Float[Array, "T B D"],
    carry: Float[Array, "B K-1 D"] | None = None,
    *,
    mask: Bool[Array, "T B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
) -> tuple[Array, Array]:
    """Convolve each feature with the K steps up to the present one: y_t = b + Σ_k w_k ⊙ x_{t−k}.

    The sum runs over the last K steps that were taken: a masked step is none, as in ``scan``, so a
    window reaches over it, and no window reaches over a reset; what is missing counts as zero.
    Parts equal the whole, and ``causal_conv_step`` T times is ``causal_conv``.

    Args:
        params: ``w`` (K, D) and ``b`` (D,), as ``init_causal_conv`` draws them.
        xs: inputs (T, B, D).
        carry: the K − 1 inputs before the first, the oldest first (B, K − 1, D); None: zeros.
        mask: (T, B); where False no step is taken, and the output is zero.
        lengths: (B,), short for a mask of right padding.
        resets: (T, B); True at t is a boundary between steps t − 1 and t, as in ``scan``.

    Returns:
        The carry after all T steps, and the outputs (T, B, D).

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape or value.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> params = {"w": jnp.array([[1.0], [10.0]]), "b": jnp.zeros((1,))}
        >>> xs = jnp.array([1.0, 2.0, 3.0])[:, None, None]
        >>> carry, ys = rnnjax.causal_conv(params, xs)
        >>> ys[:, 0, 0].tolist(), carry.tolist()
        ([1.0, 12.0, 23.0], [[[3.0]]])
    """
    axes = _check("causal_conv", "xs", ("T", "B"), params, xs, carry)
    checks.booleans("mask", mask, axes)
    checks.lengths(lengths, axes)
    checks.booleans("resets", resets, axes)
    return _convolve(params, xs, carry, mask, lengths, resets)


def causal_conv_step(
    params: Params,
    x: Float[Array, "B D"],
    carry: Float[Array, "B K-1 D"] | None = None,
    *,
    mask: Bool[Array, " B"] | None = None,
    reset: Bool[Array, " B"] | None = None,
) -> tuple[Array, Array]:
    """Take one step of ``causal_conv`` for a batch: streaming, decoding, control.

    Args:
        params: as for ``causal_conv``.
        x: inputs of one step (B, D).
        carry: as for ``causal_conv``.
        mask: (B,); where False the carry passes on and the output is zero.
        reset: (B,); where True the step begins with a carry of zeros.

    Returns:
        The next carry, and the outputs (B, D).

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: an argument of the wrong shape.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> params = rnnjax.init_causal_conv(jax.random.key(0), 3)
        >>> carry, y = rnnjax.causal_conv_step(params, jnp.ones((2, 3)))
        >>> carry, y = rnnjax.causal_conv_step(params, jnp.ones((2, 3)), carry)
        >>> carry.shape, y.shape
        ((2, 3, 3), (2, 3))
    """
    axes = _check("causal_conv_step", "x", ("B",), params, x, carry)
    checks.booleans("mask", mask, axes)
    checks.booleans("reset", reset, axes)
    mask, reset = (None if a is None else jnp.asarray(a)[None] for a in (mask, reset))
    after, ys = _convolve(params, x[None], carry, mask, None, reset)
    return after, ys[0]


def _check(
    owner: str, root: str, names: tuple[str, ...], params: Any, xs: Any, carry: Any
) -> checks.Axes:
    """Check what both have in common; return the leading axes."""
    if not isinstance(params, dict) or not {"w", "b"} <= params.keys():
        raise TypeError(
            f"{owner}: params must be a dict with w (K, D) and b (D,), as rnnjax.init_causal_conv "
            f"returns; got {type(params).__name__}."
        )
    width, features = jnp.shape(params["w"])
    leaf = checks.array(owner, root, xs)
    shape = checks.shape_text((*names, features))
    if leaf.ndim != len(names) + 1 or leaf.shape[-1] != features:
        raise ValueError(f"{owner}: {root} must be {shape}; got {leaf.shape}.")
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"{owner}: {root} must be floating point; got {leaf.dtype}.")
    axes = checks.Axes(owner, names, leaf.shape[:-1])
    if carry is not None:
        expected = (axes.sizes[-1], width - 1, features)
        got = checks.array(owner, "carry", carry)
        if got.shape != expected:
            raise ValueError(f"{owner}: carry must be (B, K − 1, D) = {expected}; got {got.shape}.")
        if got.dtype != leaf.dtype:
            raise TypeError(f"{owner}: carry must be {leaf.dtype}, as {root}; got {got.dtype}.")
    return axes


@jax.jit
def _convolve(
    params: Params,
    xs: Array,
    carry: Array | None,
    mask: Array | None,
    lengths: Array | None,
    resets: Array | None,
) -> tuple[Array, Array]:
    time, batch, features = xs.shape
    before, mesh_axis = params["w"].shape[0] - 1, jax.typeof(xs).sharding.spec[1]
    none_before = jnp.zeros((batch, before, features), xs.dtype)
    window: Array = shard_batch(none_before if carry is None else carry, 0, mesh_axis)
    if not time:
        return window, xs
    mask, resets = shard_batch((valid_steps(mask, lengths, time), resets), 1, mesh_axis)
    # The carry belongs to document 0, and a step sees those of its own document.
    first = shard_batch(jnp.zeros((before + time, batch), int), 1, mesh_axis)
    documents = first[before:] if resets is None else jnp.cumsum(resets, 0, int)
    steps, count = Steps(xs, documents), jnp.full((batch,), time)
    if mask is not None:
        steps, count = _together(mask, steps), mask.sum(0)
    earlier = Steps(window.swapaxes(0, 1), first[:before])
    seen = jax.tree.map(lambda *parts: jnp.concatenate(parts), earlier, steps)
    ys = _weigh(params, seen, steps.document)
    kept = jax.tree.map(lambda a: _take(a, count[None] + jnp.arange(before)[:, None]), seen)
    carry = _of_document(kept, documents[-1:]).swapaxes(0, 1)
    return carry, ys if mask is None else _apart(mask, ys)


class Steps(NamedTuple):
    """Inputs (…, B, D), and the number of the document that each belongs to (…, B)."""

    x: Array
    document: Array


def _together(mask: Array, steps: Steps) -> Steps:
    """Move the steps of each row that are taken to its front, the others behind as zeros."""
    clean = jnp.where(mask[..., None], steps.x, jnp.zeros((), steps.x.dtype))
    order = jnp.argsort(~mask, axis=0, stable=True)  # (T, B)
    return Steps(_take(clean, order), _take(steps.document, order))


def _apart(mask: Array, ys: Array) -> Array:
    """Move the outputs back to where their steps are taken, with zeros elsewhere."""
    place = jnp.maximum(jnp.cumsum(mask, 0, int) - 1, 0)
    return jnp.where(mask[..., None], _take(ys, place), jnp.zeros((), ys.dtype))


def _weigh(params: Params, seen: Steps, documents: Array) -> Array:
    """Return b + Σ_k w_k ⊙ x_{t−k} (T, B, D), summed up in at least float32."""
    time, width = documents.shape[0], params["w"].shape[0]
    wide = carry_dtype(seen.x.dtype)
    w, b = (params[name].astype(wide)[..., None, None, :] for name in ("w", "b"))
    ys = jnp.broadcast_to(b, (time, *seen.x.shape[1:]))
    for k in range(width):
        start = width - 1 - k
        back = jax.tree.map(lambda a, start=start: a[start : start + time], seen)
        ys = ys + w[k] * _of_document(back, documents).astype(wide)
    return ys.astype(seen.x.dtype)


def _of_document(steps: Steps, document: Array) -> Array:
    """Return the inputs, zeros for those of another document: by selection, so no NaN crosses."""
    same = (steps.document == document)[..., None]
    return jnp.where(same, steps.x, jnp.zeros((), steps.x.dtype))


def _take(a: Array, index: Array) -> Array:
    """Return the steps (S, B) of each row of an array (T, B, …)."""
    return jax.vmap(lambda row, steps: row[steps], in_axes=1, out_axes=1)(a, index)
