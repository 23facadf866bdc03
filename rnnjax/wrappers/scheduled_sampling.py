"""Training on what the model says itself."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import checks
from rnnjax.array_typing import Array, Carry, InDim, Int, Key, Params, PyTree
from rnnjax.cell import Keyed, feed
from rnnjax.wrappers.base import Beside, Wrapper


class ScheduledCarry(NamedTuple):
    """The carry of ``ScheduledSampling``."""

    cell: Carry
    """The carry of the cell inside."""
    read: Int[Array, ""]
    """The token that the last step read, the reference's or the model's own."""
    prediction: Int[Array, ""]
    """The token that the model puts next; −1 where it has not said any."""


jax.export.register_namedtuple_serialization(
    ScheduledCarry, serialized_name="rnnjax.ScheduledCarry"
)


class _Choice(NamedTuple):
    """What a key decides in one step."""

    own: Array  # (), whether the model's own prediction is read
    key: Key  # of the next prediction


@dataclasses.dataclass(frozen=True)
class ScheduledSampling(Wrapper):
    """Read now and then what the model itself puts next, not the reference (Bengio et al. 2015).

    token_t = prediction_{t−1} with probability p, else x_t
    h_t = step(h_{t−1}, embed(token_t)),  y_t = readout(h_t),  prediction_t ~ softmax(head(y_t))

    Inputs are token ids: x_t is the reference's token before the one to be predicted at t. p stands
    in the context, (B,), so a schedule that raises it in training compiles nothing anew; the
    paper's ε is 1 − p. It takes keys (``rnnjax.with_keys``); without, the reference is read. The
    first step, and one after a reset, read the reference. The output is that of the cell inside. No
    gradient passes through a prediction.

    ``init`` draws the params of the cell inside and, beside them, what ``leaves`` does; both
    functions get this dict. For decoding, step through the cell inside, with the same dict.

    Args:
        cell: the cell inside, which reads what ``embed`` returns.
        embed: (params, token ()) → the input of the cell inside.
        head: (params, output of the cell inside) → logits (V,).
        leaves: key → a dict of what ``embed`` and ``head`` read from params.
        predict: (key, logits) → token; drawn by default; ``lambda key, logits: logits.argmax()``
            takes the likeliest.
        name: under which the context holds p.

    Raises:
        TypeError: when a field is of the wrong kind.

    Example:
        >>> import jax, jax.numpy as jnp, rnnjax
        >>> def leaves(key):
        ...     return {"table": jax.random.normal(key, (5, 3)), "w": jnp.zeros((8, 5))}
        >>> def embed(params, token):
        ...     return params["table"][token]
        >>> def head(params, y):
        ...     return y @ params["w"]
        >>> cell = rnnjax.ScheduledSampling(rnnjax.GRU(8), embed, head, leaves)
        >>> params = cell.init(jax.random.key(0), ())
        >>> tokens = rnnjax.with_keys(jax.random.key(1), jnp.ones((7, 2), int))
        >>> rate = {"sampling_rate": jnp.full((2,), 0.25)}
        >>> carry, ys = rnnjax.scan(cell, params, tokens, context=rate)
        >>> ys.shape, head(params, ys).shape
        ((7, 2, 8), (7, 2, 5))
    """

    embed: Callable[[Params, Array], PyTree]
    head: Callable[[Params, PyTree], Array]
    leaves: Callable[[Key], Params]
    predict: Callable[[Key, Array], Array] = jax.random.categorical
    name: str = "sampling_rate"
    affine = False  # pyright: ignore[reportAssignmentType]
    elementwise = False  # pyright: ignore[reportAssignmentType]

    def __post_init__(self):
        super().__post_init__()
        for name in ("embed", "head", "leaves", "predict"):
            checks.function("ScheduledSampling", name, getattr(self, name))
        checks.string("ScheduledSampling", "name", self.name)

    @property
    def noisy(self) -> bool:
        """True: what is read and predicted is drawn from keys."""
        return True

    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw what ``leaves`` does, and the params of the cell inside for what ``embed`` returns.

        Raises:
            ValueError: when ``in_dim`` is not (), the shape of one token.
        """
        if checks.as_shapes(in_dim).shape != ():
            raise ValueError(
                f"ScheduledSampling.init: in_dim must be (), the shape of one token; got {in_dim}."
            )
        k_own, k_cell = jax.random.split(key)
        own = self.leaves(k_own)
        x = jax.eval_shape(self.embed, own, jax.ShapeDtypeStruct((), jnp.int32))
        return {**self.cell.init(k_cell, x), **own}

    def initial_carry(self, params: Params) -> ScheduledCarry:
        """Return the initial carry of the cell inside, without a prediction."""
        none = jnp.int32(-1)
        return ScheduledCarry(self.cell.initial_carry(params), none, none)

    def encode(self, params: Params, x: PyTree) -> Beside:
        """Draw whether the model's own token is read, where there is a key; else None."""
        if not isinstance(x, Keyed):
            return Beside(x, None)
        k_choice, k_predict = jax.random.split(jax.random.fold_in(x.key, 0))
        # In float32, so that the draw is the same whether 64-bit numbers are enabled or not.
        p = params["context"][self.name].astype(jnp.float32)
        choice = _Choice(jax.random.bernoulli(k_choice, p), k_predict)
        return Beside(Keyed(x.x, jax.random.fold_in(x.key, 1)), choice)

    def step(self, params: Params, carry: ScheduledCarry, u: Beside) -> ScheduledCarry:
        """Choose the token, step on it, and predict the next."""
        token = self._choose(carry, u)
        v = self._embedded(params, token, u)
        inner = self.cell.step(params, carry.cell, v)
        if u.own is None:
            return ScheduledCarry(inner, token, jnp.int32(-1))
        logits = self.head(params, self.cell.readout(params, inner, v))
        prediction = self.predict(u.own.key, logits).astype(jnp.int32)
        return ScheduledCarry(inner, token, prediction)

    def readout(self, params: Params, carry: ScheduledCarry, u: Beside) -> PyTree:
        """Return the output of the cell inside."""
        return self.cell.readout(params, carry.cell, self._embedded(params, carry.read, u))

    def gates(self, params: Params, carry: ScheduledCarry, u: Beside) -> dict[str, Array]:
        """Return the gates of the cell inside."""
        v = self._embedded(params, self._choose(carry, u), u)
        return self.cell.gates(params, carry.cell, v)

    def gated(self) -> None:
        """Return None: what the cell inside reads depends on the carry."""

    def input_shapes(self, params: Params) -> jax.ShapeDtypeStruct:
        """Return one token."""
        del params
        return jax.ShapeDtypeStruct((), jnp.int32)

    def context_shapes(self) -> dict[str, PyTree]:
        """Return p, and what the cell inside reads."""
        return {**super().context_shapes(), self.name: jax.ShapeDtypeStruct((), jnp.float32)}

    def _choose(self, carry: ScheduledCarry, u: Beside) -> Array:
        """Return the token to read: the model's own where it is drawn and there is one."""
        token = u.u.x if isinstance(u.u, Keyed) else u.u
        token = token.astype(jnp.int32)
        if u.own is None:
            return token
        return jnp.where(u.own.own & (carry.prediction >= 0), carry.prediction, token)

    def _embedded(self, params: Params, token: Array, u: Beside) -> PyTree:
        """Return the u of the cell inside for a token."""
        x = self.embed(params, token)
        keyed = Keyed(x, u.u.key) if isinstance(u.u, Keyed) else x
        return self.cell.encode(params, feed(self.cell, keyed))
