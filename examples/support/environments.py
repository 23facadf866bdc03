"""Environments in which what is seen does not tell enough, as pure functions of one environment.

    state = environment.start(key)
    x = environment.observe(state)
    moved = environment.step(state, action)

A T-maze (Bakker, "Reinforcement Learning with Long Short-Term Memory", 2002): the cue at its start
says on which side of the junction, so many steps away, the reward lies. A cart-pole (Barto, Sutton
and Anderson 1983, with the constants of Gymnasium's CartPole-v1) whose velocities are not seen.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Moved(NamedTuple):
    """What a step of an environment gives."""

    state: Any
    reward: jax.Array  # (), float32
    ended: jax.Array  # (), bool; the episode is over, nothing comes after
    score: jax.Array  # (), float32; what the episode is judged by, summed over its steps


class Environment(Protocol):
    """A kind of environment; it holds no state."""

    @property
    def observations(self) -> int:
        """Numbers that are seen at a step."""
        ...

    @property
    def actions(self) -> int:
        """How many there are to choose from."""
        ...

    @property
    def longest(self) -> int:
        """Steps after which every episode is over."""
        ...

    def start(self, key: jax.Array) -> Any:
        """Draw the state that an episode begins in."""
        ...

    def observe(self, state: Any) -> jax.Array:
        """What is seen of a state, (observations,)."""
        ...

    def step(self, state: Any, action: jax.Array) -> Moved:
        """Act once."""
        ...


# --- the T-maze ---

EAST, WEST, NORTH, SOUTH = range(4)
GOAL, BUMP = 4.0, -0.1  # the rewards of Bakker 2002


class InMaze(NamedTuple):
    """Where somebody in a maze stands, and where the reward is."""

    place: jax.Array  # (), int32: 0 … length; the last is the junction
    north: jax.Array  # (), bool
    time: jax.Array  # (), int32


@dataclasses.dataclass(frozen=True)
class TMaze:
    """A corridor with a cue at its start and a junction at its end, where it says which way to go.

        cue · · · · ┬  north or south
        0   1 2 …   L

    Seen are (up, corridor, down): (0, 1, 1) or (1, 1, 0) at the start, (1, 0, 1) in the corridor,
    (0, 1, 0) at the junction. The right turn there gives 4, the wrong one −0.1, and both end the
    episode; a step against a wall gives −0.1 and stays. Without memory one turn in two is right.

    Attributes:
        length: L, steps from the start to the junction.
        patience: an episode is over after so many steps for each of the corridor.

    Example:
        >>> import jax
        >>> maze = TMaze(2)
        >>> state = maze.start(jax.random.key(0))
        >>> maze.observe(state).tolist() in ([0.0, 1.0, 1.0], [1.0, 1.0, 0.0])
        True
        >>> maze.observe(maze.step(state, EAST).state).tolist()
        [1.0, 0.0, 1.0]
    """

    length: int
    patience: int = 5
    observations = 3
    actions = 4

    @property
    def longest(self) -> int:
        """Steps after which every episode is over."""
        return self.patience * self.length

    def start(self, key: jax.Array) -> InMaze:
        """At the start, the reward on either side."""
        zero = jnp.zeros((), jnp.int32)
        return InMaze(zero, jax.random.bernoulli(key), zero)

    def observe(self, state: InMaze) -> jax.Array:
        """The cue at the start, the corridor, the junction."""
        seen = jnp.array([[0, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0]], jnp.float32)
        cue = jnp.where(state.north, 1, 0)
        on_the_way = jnp.where(state.place < self.length, 2, 3)
        return seen[jnp.where(state.place == 0, cue, on_the_way)]

    def step(self, state: InMaze, action: jax.Array) -> Moved:
        """Go one step, or turn at the junction."""
        at_junction = state.place == self.length
        turned = at_junction & (action >= NORTH)
        right = turned & ((action == NORTH) == state.north)
        direction = jnp.where(action == EAST, 1, jnp.where(action == WEST, -1, 0))
        place = jnp.clip(state.place + direction, 0, self.length)
        bumped = (place == state.place) & ~right  # a wrong turn costs as much
        reward = jnp.where(right, GOAL, 0.0) + jnp.where(bumped, BUMP, 0.0)
        time = state.time + 1
        late = time >= self.longest
        after = InMaze(place, state.north, time)
        return Moved(after, reward, turned | late, right.astype(jnp.float32))


# --- the cart-pole ---

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
WIDEST, STEEPEST = 2.4, 12 * np.pi / 180  # m, rad
SCALES = np.array([WIDEST, 3.0, STEEPEST, 3.0], np.float32)  # so that what is seen is about 1


class OnCart(NamedTuple):
    """A cart on a track, and the pole that stands on it."""

    motion: jax.Array  # (4,): x in m, its velocity, the angle in rad, its velocity
    time: jax.Array  # (), int32


@dataclasses.dataclass(frozen=True)
class CartPole:
    """A pole to be balanced on a cart, by pushing the cart left or right at each step of 20 ms.

    The episode is over after 500 steps, or when the pole leans more than 12° or the cart is further
    than 2.4 m from the middle, which gives −1; everything else gives 0, and each step counts 1 to
    the score. Place and angle are seen; the velocities, without which nothing tells a pole that
    falls from one that rises, only where they are asked for.

    Attributes:
        velocities: whether they are seen.

    Example:
        >>> import jax
        >>> CartPole().observe(CartPole().start(jax.random.key(0))).shape
        (2,)
    """

    velocities: bool = False
    actions = 2
    longest = 500

    @property
    def observations(self) -> int:
        """Place and angle, or velocities with them."""
        return 4 if self.velocities else 2

    def start(self, key: jax.Array) -> OnCart:
        """Near the middle, almost upright, almost still."""
        motion = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return OnCart(motion, jnp.zeros((), jnp.int32))

    def observe(self, state: OnCart) -> jax.Array:
        """Place and angle, and the velocities where they are seen, in units of their scales."""
        scaled = state.motion / SCALES
        return scaled if self.velocities else scaled[::2]

    def step(self, state: OnCart, action: jax.Array) -> Moved:
        """Push left (0) or right (1), and let 20 ms pass."""
        motion = state.motion + SECONDS * slopes(
            state.motion, jnp.where(action == 1, FORCE, -FORCE)
        )
        time = state.time + 1
        fell = (jnp.abs(motion[0]) > WIDEST) | (jnp.abs(motion[2]) > STEEPEST)
        reward, one = jnp.where(fell, -1.0, 0.0), jnp.ones((), jnp.float32)
        return Moved(OnCart(motion, time), reward, fell | (time >= self.longest), one)


def slopes(motion: jax.Array, force: jax.Array) -> jax.Array:
    """The derivatives (4,) of a motion (4,) by time under a force, without friction.

    θ'' = (g sin θ − cos θ a) / (l (4/3 − m cos² θ / M)),  x'' = a − m l θ'' cos θ / M,
    a = (F + m l θ'² sin θ) / M,  with M the mass of both (Florian 2007).
    """
    _, velocity, angle, turning = motion
    total = CART + POLE
    push = (force + POLE * HALF_LENGTH * turning**2 * jnp.sin(angle)) / total
    bend = HALF_LENGTH * (4 / 3 - POLE * jnp.cos(angle) ** 2 / total)
    turn = (GRAVITY * jnp.sin(angle) - jnp.cos(angle) * push) / bend
    pull = push - POLE * HALF_LENGTH * turn * jnp.cos(angle) / total
    return jnp.stack([velocity, pull, turning, turn])
