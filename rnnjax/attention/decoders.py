"""Decoders: cells that attend to a memory in every step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Bool, Carry, Float, InDim, Int, Key, Params, PyTree
from rnnjax.attention.mechanisms import Attended, Attention, Memory
from rnnjax.cell import Cell, Keyed, carry_dtype, feed, product, row_shapes, with_context
from rnnjax.placement import shard_batch
from rnnjax.scan import valid_steps
from rnnjax.wrappers import Wrapper


class DecoderOutput(NamedTuple):
    """What a decoder reads out at each step."""

    output: Float[Array, " N"]
    """(N,): the output of the cell inside, or Luong's attentional vector."""
    context: Float[Array, " M"]
    """(M,), the context vector."""
    weights: Float[Array, " S"]
    """(S,), the attention weights: how much was read where."""


class BahdanauCarry(NamedTuple):
    """The carry of a ``BahdanauDecoder``."""

    cell: Carry
    """The carry of the cell inside."""
    attended: Attended
    """What the last step found; zero at the start."""


class InputFeedingCarry(NamedTuple):
    """The carry of ``InputFeeding``."""

    cell: Carry
    """The carry of the cell inside."""
    attended: DecoderOutput
    """What the last step found and fed to the next; zero at the start."""


for _kind in (DecoderOutput, BahdanauCarry, InputFeedingCarry):
    jax.export.register_namedtuple_serialization(_kind, serialized_name=f"rnnjax.{_kind.__name__}")


def attention_memory(
    cell: Cell,
    params: Params,
    encoded: Float[Array, "S B M"],
    *,
    mask: Bool[Array, "S B"] | None = None,
    lengths: Int[Array, " B"] | None = None,
) -> dict[str, Memory]:
    """Prepare an encoder's outputs as the context of a decoder: once a sequence, not once a step.

    Call it in the loss, with the params that the scan gets: gradients flow through both.

    Args:
        cell: a decoder with attention, or a wrapper around one.
        params: what ``cell.init`` returned.
        encoded: (S, B, M), as ``rnnjax.scan`` and ``rnnjax.bidirectional`` return outputs.
        mask: (S, B); what stands where it is False, NaN included, reaches neither values nor
            gradients.
        lengths: (B,), each in 0…S; short for a mask of right padding. With ``mask``, both hold.
            A row without anything to attend to finds a zero vector, with weights of zero.

    Returns:
        ``{cell.name: Memory}``, whose leaves lead with B: a context for ``rnnjax.scan``,
        ``rnnjax.step`` and ``rnnjax.decoding``. Entries of your own beside it: ``memory | {…}``.

    Raises:
        TypeError: when no decoder with attention is in ``cell``, or an argument of the wrong kind.
        ValueError: an argument of the wrong shape or value.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> decoder = rnnjax.BahdanauDecoder(rnnjax.GRU(8), rnnjax.AdditiveAttention(8), 6)
        >>> params = decoder.init(jax.random.key(0), 4)
        >>> encoded, lengths = jnp.ones((7, 2, 6)), jnp.array([7, 3])
        >>> context = rnnjax.attention_memory(decoder, params, encoded, lengths=lengths)
        >>> carry, ys = rnnjax.scan(decoder, params, jnp.ones((5, 2, 4)), context=context)
        >>> ys.output.shape, ys.weights.shape, bool((ys.weights[:, 1, 3:] == 0).all())
        ((5, 2, 8), (5, 2, 7), True)
    """
    decoder = _decoder_in(cell)
    checks.params("attention_memory", cell, params)
    if "attention" not in params:
        raise ValueError(
            f"attention_memory: params must be what {checks.describe(cell)}.init(key, in_dim) "
            f"returns; these hold {sorted(params)}."
        )
    axes = checks.memory("attention_memory", "encoded", encoded, decoder.memory_dim)
    checks.booleans("mask", mask, axes)
    checks.lengths(lengths, axes)
    memory = _prepare(decoder.attention, params["attention"], encoded, mask, lengths)
    return {decoder.name: memory}


def _decoder_in(cell: Any) -> "AttentionDecoder":
    """Return the decoder in wrappers around it."""
    inside = cell
    while isinstance(inside, Wrapper) and not isinstance(inside, AttentionDecoder):
        inside = inside.cell
    if not isinstance(inside, AttentionDecoder):
        raise TypeError(
            f"attention_memory: cell must be a decoder with attention, or a wrapper around one; "
            f"got {checks.describe(cell)}. Of a Stack pass the layer that attends, with its params."
        )
    return inside


@jax.jit
def _prepare(
    attention: Attention,
    params: Params,
    encoded: Array,
    mask: Array | None,
    lengths: Array | None,
) -> Memory:
    valid = valid_steps(mask, lengths, encoded.shape[0])
    valid = jnp.ones(encoded.shape[:2], bool) if valid is None else valid
    valid = shard_batch(valid, 1, jax.typeof(encoded).sharding.spec[1])
    return jax.vmap(attention.prepare, (None, 1, 1))(params, encoded, valid)


@dataclasses.dataclass(frozen=True)
class AttentionDecoder(Wrapper):
    """A cell that attends, around any cell whose output is one vector.

    The memory is context, which ``rnnjax.attention_memory`` prepares. The params are those of the
    cell inside, with those of the mechanism beside them, under ``"attention"``.

    Args:
        cell: the cell inside; a ``Stack`` too.
        attention: the mechanism.
        memory_dim: M, the width of the memory.
        name: under which the context holds the memory; for decoders that read different ones.

    Raises:
        TypeError: when a field is of the wrong kind.
        ValueError: when ``memory_dim`` is below 1.
    """

    attention: Attention
    memory_dim: int
    name: str = dataclasses.field(default="memory", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        owner, example = type(self).__name__, "rnnjax.AdditiveAttention(64)"
        checks.instance(owner, "attention", self.attention, Attention, example)
        checks.positive_int(owner, "memory_dim", self.memory_dim)
        checks.string(owner, "name", self.name)

    def context_shapes(self) -> dict[str, PyTree]:
        """Return the memory, and what the cell inside reads."""
        memory = self.attention.memory_shapes(self.memory_dim)
        return {**super().context_shapes(), self.name: memory}

    def memory(self, params: Params) -> Memory:
        """Return the row's memory."""
        return params["context"][self.name]

    def find(self, params: Params, query: Array) -> Attended:
        """Return what a query finds in the row's memory."""
        return self.attention.attend(params["attention"], query, self.memory(params))

    def nothing(self, params: Params) -> Attended:
        """Return what stands for what was found before the first step: zeros."""
        memory = self.memory(params)
        dtype = carry_dtype(memory.values.dtype)
        return Attended(jnp.zeros((self.memory_dim,), dtype), jnp.zeros(memory.mask.shape, dtype))

    def narrow(self, params: Params, output: PyTree) -> PyTree:
        """Bring what leaves into the compute dtype."""
        dtype = self.memory(params).values.dtype
        return jax.tree.map(lambda leaf: leaf.astype(dtype), output)

    def output_dim(self, params: Params, in_dim: InDim) -> int:
        """Return the width of the output of the cell inside, given its params.

        Raises:
            ValueError: when it is not one vector.
        """
        row = with_context(params, self.cell.context_shapes())
        y = row_shapes(self.cell, row, checks.as_shapes(in_dim)).y
        if not isinstance(y, jax.ShapeDtypeStruct) or len(y.shape) != 1:
            raise ValueError(
                f"{type(self).__name__}: cell must have one vector (N,) as its output; "
                f"{checks.describe(self.cell)} has {jax.tree.map(jnp.shape, y)}."
            )
        return y.shape[0]


@dataclasses.dataclass(frozen=True)
class BahdanauDecoder(AttentionDecoder):
    """Attend before the step, with the output before it (Bahdanau, Cho and Bengio 2015).

    c_t = attend(y_{t−1}, memory),  h_t = step(h_{t−1}, [x_t; c_t]),  y_t = readout(h_t)

    The output is ``DecoderOutput(y_t, c_t, a_t)``: the paper's head reads y_t, c_t and x_t. With
    the paper's GRU y is h; where an output depends on the input as well (a ``Residual`` inside),
    y_{t−1} is read as of [x_t; c_{t−1}].

    Parameters: those of the cell inside, for D + M features, and ``attention``. The carry is
    ``BahdanauCarry``.

    Example:
        From an encoder's last carry, which becomes the first of the decoder:

        >>> import jax, jax.numpy as jnp, rnnjax
        >>> decoder = rnnjax.BahdanauDecoder(rnnjax.GRU(8), rnnjax.AdditiveAttention(5), 8)
        >>> params = decoder.init(jax.random.key(0), 4)
        >>> last, encoded = jnp.ones((2, 8)), jnp.ones((7, 2, 8))
        >>> context = rnnjax.attention_memory(decoder, params, encoded)
        >>> carry = rnnjax.initial_carry(decoder, params, batch=2, context=context)
        >>> carry, y = rnnjax.step(
        ...     decoder, params, jnp.ones((2, 4)), carry._replace(cell=last), context=context)
        >>> y.output.shape, y.context.shape, y.weights.shape
        ((2, 8), (2, 8), (2, 7))
    """

    affine = False  # pyright: ignore[reportAssignmentType]
    elementwise = False  # pyright: ignore[reportAssignmentType]

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the params of the cell inside, for x_t beside the context vector, and of attention.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features, or the output of the
                cell inside is not one vector.
        """
        k_cell, k_attention = jax.random.split(key)
        in_dim = checks.features("BahdanauDecoder", in_dim) + self.memory_dim
        params = self.cell.init(k_cell, in_dim)
        query_dim = self.output_dim(params, in_dim)
        return {
            **params,
            "attention": self.attention.init(k_attention, query_dim, self.memory_dim),
        }

    def initial_carry(self, params: Params) -> BahdanauCarry:
        """Return the initial carry of the cell inside, and zeros for what it found."""
        return BahdanauCarry(self.cell.initial_carry(params), self.nothing(params))

    def encode(self, params: Params, x: PyTree) -> PyTree:
        """Return x: what the cell inside encodes depends on the carry."""
        del params
        return x

    def step(self, params: Params, carry: BahdanauCarry, u: PyTree) -> BahdanauCarry:
        """Attend, then step on x beside the context vector."""
        attended, v = self._attend(params, carry, u)
        return BahdanauCarry(self.cell.step(params, carry.cell, v), attended)

    def readout(self, params: Params, carry: BahdanauCarry, u: PyTree) -> DecoderOutput:
        """Return the output of the cell inside, beside what it read."""
        v = _encode_beside(self.cell, params, u, carry.attended.context)
        y = self.cell.readout(params, carry.cell, v)
        return DecoderOutput(y, *self.narrow(params, carry.attended))

    def gates(self, params: Params, carry: BahdanauCarry, u: PyTree) -> dict[str, Array]:
        """Return the gates of the cell inside."""
        return self.cell.gates(params, carry.cell, self._attend(params, carry, u)[1])

    def gated(self) -> None:
        """Return None: attention stands before the product."""

    def input_shapes(self, params: Params) -> PyTree | None:
        """Return what is left beside the context vector of what the cell inside reads."""
        return _without(self.cell.input_shapes(params), self.memory_dim)

    def _attend(self, params: Params, carry: BahdanauCarry, u: PyTree) -> tuple[Attended, PyTree]:
        """Return what the query finds, and the u of the cell inside."""
        before = _encode_beside(self.cell, params, u, carry.attended.context)
        attended = self.find(params, self.cell.readout(params, carry.cell, before))
        return attended, _encode_beside(self.cell, params, u, attended.context)


@dataclasses.dataclass(frozen=True)
class LuongDecoder(AttentionDecoder):
    """Attend after the step, with its output (Luong, Pham and Manning 2015).

    c_t = attend(readout(h_t), memory),  h̃_t = tanh([c_t; readout(h_t)] W_c)

    The output is ``DecoderOutput(h̃_t, c_t, a_t)``. The recurrence is that of the cell inside:
    attention reads out, so it can run for all T at once (``Sequential(hoist=True)``), and a gated
    cell stays one. ``InputFeeding`` around it hands h̃ to the next step, as the paper does.

    Parameters: those of the cell inside, ``attention``, and ``w_c`` (M + N, size), drawn as the
    mechanism's kernels are. The carry is that of the cell inside.

    Args:
        size: the width of the attentional vector h̃.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> decoder = rnnjax.LuongDecoder(rnnjax.LSTM(8), rnnjax.MultiplicativeAttention(8), 6, 10)
        >>> params = decoder.init(jax.random.key(0), 4)
        >>> context = rnnjax.attention_memory(decoder, params, jnp.ones((7, 2, 6)))
        >>> carry, ys = rnnjax.scan(decoder, params, jnp.ones((5, 2, 4)), context=context)
        >>> ys.output.shape, ys.context.shape, ys.weights.shape
        ((5, 2, 10), (5, 2, 6), (5, 2, 7))
    """

    size: int

    def __post_init__(self):
        super().__post_init__()
        checks.positive_int("LuongDecoder", "size", self.size)

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the params of the cell inside, of attention and W_c.

        Raises:
            ValueError: when the output of the cell inside is not one vector.
        """
        k_cell, k_attention, k_c = jax.random.split(key, 3)
        params = self.cell.init(k_cell, in_dim)
        query_dim = self.output_dim(params, in_dim)
        return {
            **params,
            "attention": self.attention.init(k_attention, query_dim, self.memory_dim),
            "w_c": self.attention.kernel(k_c, self.memory_dim + query_dim, self.size),
        }

    def readout(self, params: Params, carry: Carry, u: PyTree) -> DecoderOutput:
        """Attend, and return the attentional vector."""
        return self.narrow(params, self.attend(params, carry, u))

    def attend(self, params: Params, carry: Carry, u: PyTree) -> DecoderOutput:
        """Return what ``readout`` does, in at least float32."""
        query = super().readout(params, carry, u)
        context, weights = self.find(params, query)
        joined = jnp.concatenate([context, query.astype(context.dtype)])
        w_c = params["w_c"].astype(self.memory(params).values.dtype)
        return DecoderOutput(jnp.tanh(product(joined, w_c)), context, weights)


@dataclasses.dataclass(frozen=True)
class InputFeeding(Wrapper):
    """Hand the attentional vector to the next step, beside its input (Luong et al. 2015).

    h_t = step(h_{t−1}, [x_t; h̃_{t−1}]),  h̃_t as in ``LuongDecoder``;  h̃_0 = 0

    The decoder then knows where it has attended. Output and params are those of the decoder inside,
    its cell for D + size features. The carry is ``InputFeedingCarry``.

    Args:
        cell: a ``LuongDecoder``.

    Raises:
        TypeError: when ``cell`` is something else.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> decoder = rnnjax.InputFeeding(
        ...     rnnjax.LuongDecoder(rnnjax.LSTM(8), rnnjax.DotAttention(), 8, 10))
        >>> params = decoder.init(jax.random.key(0), 4)
        >>> context = rnnjax.attention_memory(decoder, params, jnp.ones((7, 2, 8)))
        >>> carry, ys = rnnjax.scan(decoder, params, jnp.ones((5, 2, 4)), context=context)
        >>> params["w_x"].shape, ys.output.shape, carry.cell.c.shape
        ((14, 32), (5, 2, 10), (2, 8))
    """

    cell: LuongDecoder
    affine = False  # pyright: ignore[reportAssignmentType]
    elementwise = False  # pyright: ignore[reportAssignmentType]

    def __post_init__(self):
        example = "rnnjax.LuongDecoder(rnnjax.LSTM(64), rnnjax.DotAttention(), 64, 64)"
        checks.instance("InputFeeding", "cell", self.cell, LuongDecoder, example)
        super().__post_init__()

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the params of the decoder inside, for x_t beside the attentional vector.

        Raises:
            ValueError: when ``in_dim`` is not one positive number of features.
        """
        return self.cell.init(key, checks.features("InputFeeding", in_dim) + self.cell.size)

    def initial_carry(self, params: Params) -> InputFeedingCarry:
        """Return the initial carry of the cell inside, and zeros for what it found."""
        nothing = self.cell.nothing(params)
        output = jnp.zeros((self.cell.size,), nothing.context.dtype)
        return InputFeedingCarry(self.cell.initial_carry(params), DecoderOutput(output, *nothing))

    def encode(self, params: Params, x: PyTree) -> PyTree:
        """Return x: what the cell inside encodes depends on the carry."""
        del params
        return x

    def step(self, params: Params, carry: InputFeedingCarry, u: PyTree) -> InputFeedingCarry:
        """Step on x beside the attentional vector, then attend."""
        v = self._inside(params, carry, u)
        inner = self.cell.step(params, carry.cell, v)
        return InputFeedingCarry(inner, self.cell.attend(params, inner, v))

    def readout(self, params: Params, carry: InputFeedingCarry, u: PyTree) -> DecoderOutput:
        """Return what the step found."""
        del u
        return self.cell.narrow(params, carry.attended)

    def gates(self, params: Params, carry: InputFeedingCarry, u: PyTree) -> dict[str, Array]:
        """Return the gates of the cell inside."""
        return self.cell.gates(params, carry.cell, self._inside(params, carry, u))

    def gated(self) -> None:
        """Return None: the product reads what attention found."""

    def input_shapes(self, params: Params) -> PyTree | None:
        """Return what is left beside the attentional vector of what the cell inside reads."""
        return _without(self.cell.input_shapes(params), self.cell.size)

    def _inside(self, params: Params, carry: InputFeedingCarry, u: PyTree) -> PyTree:
        """Return the u of the decoder inside."""
        return _encode_beside(self.cell, params, u, carry.attended.output)


def _encode_beside(cell: Cell, params: Params, x: PyTree, found: Array) -> PyTree:
    """Encode x beside a vector out of the carry, as the cell inside does."""
    bare = x.x if isinstance(x, Keyed) else x
    joined = jnp.concatenate([bare, found.astype(bare.dtype)])
    return cell.encode(params, feed(cell, Keyed(joined, x.key)) if isinstance(x, Keyed) else joined)


def _without(shapes: Any, width: int) -> jax.ShapeDtypeStruct | None:
    """Return the shape of a vector without that of one that stands beside it."""
    if shapes is None:
        return None
    return jax.ShapeDtypeStruct((shapes.shape[0] - width,), shapes.dtype)
