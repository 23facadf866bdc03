"""A policy that remembers, acting in many environments side by side.

    h_t = cell(x_t, h_{t−1}),    π(a | x_1 … x_t) = softmax(h_t W + b),    v_t = h_t w + c

Where an episode begins, the carry is the initial one (``reset``). A feed-forward policy is the same
network that begins at every step, so it has the same size and no memory.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import rnnjax
from examples.support.environments import Environment
from rnnjax.initializers import Orthogonal


@dataclasses.dataclass(frozen=True)
class Policy:
    """What acts, and where.

    Attributes:
        environment: what it is in.
        cell: its memory.
        recurrent: whether it remembers; else each step is the first.
    """

    environment: Environment
    cell: rnnjax.GRU
    recurrent: bool = True

    def resets(self, begun: jax.Array) -> jax.Array:
        """Where the carry is replaced: where an episode has begun, or everywhere."""
        return begun if self.recurrent else jnp.ones_like(begun)


class Acting(NamedTuple):
    """Environments and what acts in them, between two steps."""

    states: Any  # of the environments, leading axis B
    memory: jax.Array  # (B, N)
    begun: jax.Array  # (B,), bool; the next step is the first of an episode
    score: jax.Array  # (B,), of the episode so far
    last: jax.Array  # (B,), of the episode before; 0 before the first is over


class Seen(NamedTuple):
    """What was seen and done; one step (B, …), or many (T, B, …)."""

    xs: jax.Array  # (…, observations)
    begun: jax.Array  # bool
    actions: jax.Array
    rewards: jax.Array
    ended: jax.Array  # bool


@functools.partial(jax.jit, static_argnums=0)
def initial_params(policy: Policy, seed: int) -> dict[str, Any]:
    """Draw the params; at first all actions are about as likely."""
    k_cell, k_actor, k_critic = jax.random.split(jax.random.key(seed), 3)
    size, actions = policy.cell.size, policy.environment.actions
    return {
        "cell": policy.cell.init(k_cell, policy.environment.observations),
        "actor": {
            "w": Orthogonal(0.01)(k_actor, (size, actions), "float32"),
            "b": jnp.zeros(actions),
        },
        "critic": {"w": Orthogonal()(k_critic, (size, 1), "float32"), "b": jnp.zeros(1)},
    }


def logits_of(params: Any, hs: jax.Array) -> jax.Array:
    """Score the actions (…, A) by hidden vectors (…, N)."""
    return _linear(params["actor"], hs)


def values_of(params: Any, hs: jax.Array) -> jax.Array:
    """Say what will be rewarded from here on, (…)."""
    return _linear(params["critic"], hs)[..., 0]


def _linear(params: Any, hs: jax.Array) -> jax.Array:
    products = hs @ params["w"]
    return products + jnp.broadcast_to(params["b"], products.shape)


@functools.partial(jax.jit, static_argnames=("policy", "batch"))
def begin(policy: Policy, params: Any, key: jax.Array, batch: int) -> Acting:
    """Begin an episode in each of so many environments."""
    states = jax.vmap(policy.environment.start)(jax.random.split(key, batch))
    memory = rnnjax.initial_carry(policy.cell, params["cell"], batch)
    return Acting(states, memory, jnp.ones(batch, bool), jnp.zeros(batch), jnp.zeros(batch))


def look(policy: Policy, params: Any, acting: Acting) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Look once, and remember: what is seen (B, D), the next carry and the hidden vectors."""
    xs = jax.vmap(policy.environment.observe)(acting.states)
    resets = policy.resets(acting.begun)
    memory, hs = rnnjax.step(policy.cell, params["cell"], xs, acting.memory, reset=resets)
    return xs, memory, hs


def act(
    policy: Policy, params: Any, acting: Acting, key: jax.Array, greedy: bool = False
) -> tuple[Acting, Seen]:
    """Look, choose and act once everywhere; where an episode is over, the next one begins."""
    k_choice, k_start = jax.random.split(key)
    xs, memory, hs = look(policy, params, acting)
    logits = logits_of(params, hs)
    actions = jnp.argmax(logits, -1) if greedy else jax.random.categorical(k_choice, logits)
    moved = jax.vmap(policy.environment.step)(acting.states, actions)
    fresh = jax.vmap(policy.environment.start)(jax.random.split(k_start, len(actions)))
    ended, score = moved.ended, acting.score + moved.score
    after = Acting(
        jax.tree.map(functools.partial(_choose, ended), fresh, moved.state),
        memory,
        ended,
        jnp.where(ended, 0.0, score),
        jnp.where(ended, score, acting.last),
    )
    return after, Seen(xs, acting.begun, actions, moved.reward, ended)


def _choose(rows: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Take the new leaf (B, …) in some rows (B,), the old one in others."""
    return jnp.where(jnp.expand_dims(rows, range(1, new.ndim)), new, old)


@functools.partial(jax.jit, static_argnames=("policy", "batch"))
def evaluate(policy: Policy, params: Any, key: jax.Array, batch: int) -> jax.Array:
    """Score one whole episode in each of so many new environments, always the likeliest action.

    Returns:
        The scores of the episodes, (B,).
    """
    k_begin, k_act = jax.random.split(key)

    def step(now: tuple[Acting, jax.Array, jax.Array], key: jax.Array) -> Any:
        acting, over, scores = now
        after, seen = act(policy, params, acting, key, greedy=True)
        first = seen.ended & ~over
        return (after, over | seen.ended, jnp.where(first, after.last, scores)), None

    now = begin(policy, params, k_begin, batch), jnp.zeros(batch, bool), jnp.zeros(batch)
    keys = jax.random.split(k_act, policy.environment.longest)
    (_, _, scores), _ = jax.lax.scan(step, now, keys)
    return scores
