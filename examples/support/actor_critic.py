"""Advantage actor-critic: acting and learning as one pure function of params, environments, noise.

A step of learning acts for T steps in B environments at once (``rnnjax.step``), then reads all that
was seen once more (``rnnjax.scan``, its resets where episodes began), for the gradient of

    L = mean( −Â_t log π(a_t) + ½ (v_t + A_t − v_t)² − β H(π_t) )

in which the middle term learns the critic: v_t + A_t is held fixed, and so is Â_t, the advantages
less their mean, by their standard deviation. They are discounted sums over what came after
(generalised advantage estimation, Schulman et al. 2016),

    A_t = δ_t + γ λ A_{t+1},    δ_t = r_t + γ v_{t+1} − v_t,

which end where an episode does. (Mnih et al., "Asynchronous Methods for Deep Reinforcement
Learning", 2016, whose batched form this is.) Environments and carries pass on to the next step.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import rnnjax
from examples.support.acting import Acting, Policy, Seen, act, logits_of, look, values_of


@dataclasses.dataclass(frozen=True)
class Weights:
    """How it is learnt.

    Attributes:
        unroll: T, steps of the environments in a step of learning.
        discount: γ.
        trace: λ.
        entropy: β.
    """

    unroll: int
    discount: float
    trace: float
    entropy: float


def loss(
    policy: Policy, weights: Weights, params: Any, acting: Acting, batch: Any, key: jax.Array
) -> tuple[jax.Array, Any]:
    """Act, and judge what was done: the loss of ``rnnjax.training.fit`` whose carry is `acting`."""
    del batch  # what is learnt from is acted out here
    fixed = jax.lax.stop_gradient(params)
    keys = jax.random.split(key, weights.unroll)
    after, seen = jax.lax.scan(lambda now, key: act(policy, fixed, now, key), acting, keys)

    resets = policy.resets(seen.begun)
    _, hs = rnnjax.scan(policy.cell, params["cell"], seen.xs, acting.memory, resets=resets)
    values, last = values_of(params, hs), values_of(fixed, look(policy, fixed, after)[2])
    found = advantages(weights, seen, jax.lax.stop_gradient(values), last)
    target = found + jax.lax.stop_gradient(values)

    log_p = jax.nn.log_softmax(logits_of(params, hs))
    chosen = jnp.take_along_axis(log_p, seen.actions[..., None], axis=-1)[..., 0]
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))
    gain = jnp.mean(standardised(found) * chosen)
    error = 0.5 * jnp.mean((target - values) ** 2)
    metrics = {"tokens": jnp.array(found.size), "score": after.last.mean(), "entropy": entropy}
    return error - gain - weights.entropy * entropy, (after, metrics)


def advantages(weights: Weights, seen: Seen, values: jax.Array, last: jax.Array) -> jax.Array:
    """A (T, B) of rewards and values (T, B), and of the values (B,) of what is seen after them."""

    def back(after: tuple, step: tuple) -> tuple:
        advantage, following = after
        reward, value, ended = step
        going_on = jnp.where(ended, 0.0, weights.discount)
        surprise = reward + going_on * following - value
        advantage = surprise + going_on * weights.trace * advantage
        return (advantage, value), advantage

    steps = (seen.rewards, values, seen.ended)
    return jax.lax.scan(back, (jnp.zeros_like(last), last), steps, reverse=True)[1]


def standardised(values: jax.Array) -> jax.Array:
    """Values less their mean, by their standard deviation."""
    return (values - values.mean()) / (values.std() + 1e-6)


@functools.cache
def loss_of(policy: Policy, weights: Weights) -> functools.partial:
    """The loss of a policy; the same object for the same policy, which compiles once."""
    return functools.partial(loss, policy, weights)
