"""What changes the distribution that the next token is drawn from.

Each is a function of logits (B, V) and returns logits, −∞ for the tokens that it takes away. Tokens
that tie at the border are all kept, so the order of the vocabulary decides nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Bool, Float, Int


class Options(NamedTuple):
    """How to draw: numbers as the caller gives them, arrays () once checked; None leaves one out.

    As arrays they are arguments of the compiled program, so a new number compiles nothing.
    """

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    repetition_penalty: Any


def apply(
    options: Options, logits: Float[Array, "B V"], seen: Bool[Array, "B V"] | None
) -> Float[Array, "B V"]:
    """Apply what the options name: penalty, temperature, top-k, top-p, min-p, in this order.

    ``seen`` is None where there is no penalty.
    """
    if seen is not None:
        logits = penalise(logits, seen, options.repetition_penalty)
    logits = heat(logits, options.temperature)
    if options.top_k is not None:
        logits = top_k(logits, options.top_k)
    if options.top_p is not None:
        logits = top_p(logits, options.top_p)
    if options.min_p is not None:
        logits = min_p(logits, options.min_p)
    return logits


def penalise(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: Float[Array, ""]
) -> Float[Array, "B V"]:
    """Make tokens seen before less likely (Keskar et al. 2019): x / θ if x > 0, else x · θ."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def heat(logits: Float[Array, "B V"], temperature: Float[Array, ""]) -> Float[Array, "B V"]:
    """Divide by the temperature; 0, where the draw looks at the order alone, divides by 1."""
    # The largest logit goes to 0 first: divided by a tiny temperature it would overflow.
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted / jnp.where(temperature > 0, temperature, 1.0)


def top_k(logits: Float[Array, "B V"], k: Int[Array, ""]) -> Float[Array, "B V"]:
    """Keep the k likeliest tokens."""
    distance = _distance(logits)
    return _within(logits, lambda d: (distance <= d).sum(-1, keepdims=True) >= k)


def top_p(logits: Float[Array, "B V"], p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Keep the nucleus (Holtzman et al. 2020): the fewest likely tokens whose mass reaches p."""
    distance, probabilities = _distance(logits), jax.nn.softmax(logits)

    def reaches(d: Array) -> Array:
        mass = jnp.where(distance <= d, probabilities, 0.0).sum(-1, keepdims=True)
        # In floating point the mass may be 1 before the last token is in.
        return (mass >= p) & (p < 1)

    return _within(logits, reaches)


def min_p(logits: Float[Array, "B V"], p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Keep tokens of at least p times the probability of the likeliest (Nguyen et al. 2024)."""
    return jnp.where(_distance(logits) <= -jnp.log(p), logits, -jnp.inf)


def _distance(logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """Return how far each logit is below the largest."""
    return logits.max(-1, keepdims=True) - logits


def _within(logits: Float[Array, "B V"], enough: Callable[[Array], Array]) -> Float[Array, "B V"]:
    """Keep the tokens within the least distance (B, 1) that is enough; all where none is.

    Non-negative floats are in the order of their bits, so 31 halvings find the distance exactly,
    without sorting the vocabulary, which takes most of a step on a CPU.
    """

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        reached = enough(_float_of(middle))
        return jnp.where(reached, low, middle + 1), jnp.where(reached, middle, high)

    low = jnp.zeros((len(logits), 1), jnp.int32)
    high = jnp.full_like(low, _INFINITY_BITS)
    _, least = jax.lax.fori_loop(0, 31, halve, (low, high))
    return jnp.where(_distance(logits) <= _float_of(least), logits, -jnp.inf)


_INFINITY_BITS = 0x7F800000


def _float_of(bits: Int[Array, "B 1"]) -> Float[Array, "B 1"]:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
