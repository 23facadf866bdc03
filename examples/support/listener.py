"""A trained recogniser at work: a whole recording, or one that is still going on.

A network that reads forwards is handed its carry from piece to piece,

    (h, z_1 … z_n) = network(h, x_1 … x_n),

so that what it says of a recording in pieces is what it says of the whole. Of the symbols that have
come so far the likeliest path can be told at once; a beam has to wait for the end.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import rnnjax
from examples.support import recogniser
from examples.support.hearing import BANDS, NONE, SCALE, RunningMean, Stream, hear
from examples.support.recogniser import Recogniser, batch_of
from examples.support.spelling import Spelling
from examples.support.utterances import padded
from rnnjax import ctc

MOST = 2_000  # joined frames for a beam, whose work grows with their square: a minute of sound
logits_of = jax.jit(recogniser.logits, static_argnums=0)
digit_logits_of = jax.jit(recogniser.digit_logits, static_argnums=0)


class Trained(NamedTuple):
    """A recogniser with its params, and how it writes."""

    model: Recogniser
    params: Any
    spelling: Spelling
    single: bool  # whether an utterance is one digit


def whole(trained: Trained, samples: NDArray[np.float32]) -> jax.Array:
    """Score a whole recording (n,): symbols (T, V) at each joined frame, or digits (10,)."""
    frames = hear(samples, trained.model.directions)
    batch = batch_of([frames], [[]], padded(len(frames)), 1)
    if trained.single:
        return digit_logits_of(trained.model, trained.params, batch)[0]
    found = logits_of(trained.model, trained.params, batch)
    return found[: trained.model.joined(len(frames)), 0]


def write(spelling: Spelling, logits: Any, width: int) -> str:
    """Write down what logits (T, V) say: the likeliest path, or the best of a beam so wide.

    Of a recording longer than ``MOST`` frames it is the likeliest path in any case.
    """
    time = len(logits)
    size = padded(time)  # few shapes
    batch = jnp.pad(jnp.asarray(logits), ((0, size - time), (0, 0)))[:, None]
    labels = decode(batch, np.array([time]), width if time <= MOST else 0)
    return spelling.decode(labels[0])


def decode(logits: jax.Array, lengths: Any, width: int) -> NDArray[np.int32]:
    """Labels (B, U) out of logits (T, B, V), ``ctc.PADDING`` behind them; width 0: no beam."""
    if not width:
        return np.asarray(ctc.greedy(logits, lengths).labels)
    return np.asarray(ctc.prefix_beam(logits, lengths, width=width).labels[:, 0])


@functools.partial(jax.jit, static_argnums=0)
def _advance(
    model: Recogniser, params: Any, carry: Any, xs: jax.Array, lengths: jax.Array
) -> tuple[Any, jax.Array]:
    """Read joined frames (T, 1, k · bands), so many of which are real."""
    carry, hs = rnnjax.scan(model.stack, params["rnn"], xs, carry, lengths=lengths)
    return carry, recogniser.scores(params, hs)


class Listener:
    """Listens to a signal that goes on, with a network that reads forwards.

    Args:
        trained: the network.

    Raises:
        ValueError: it reads in both directions, or hears single digits.
    """

    def __init__(self, trained: Trained):
        if trained.model.directions != "forward" or trained.single:
            raise ValueError(
                "Listener: trained must read strings forwards; got a recogniser of "
                f"{'single digits' if trained.single else 'both directions'}. Train one with "
                "--task digits --directions forward."
            )
        self._trained, self._stream, self._mean = trained, Stream(), RunningMean()
        self._carry = rnnjax.initial_carry(trained.model.stack, trained.params["rnn"], 1)
        self._frames = NONE
        self._last, self._labels = 0, []
        self.logits: list[NDArray[np.float32]] = []

    @property
    def text(self) -> str:
        """What was said so far."""
        return self._trained.spelling.decode(self._labels)

    def push(self, samples: NDArray[np.floating]) -> str:
        """Take up the samples (n,) that have come; return what was said so far."""
        self._hear(self._stream.push(samples))
        join = self._trained.model.join
        self._read(len(self._frames) // join)
        return self.text

    def end(self, width: int = 0) -> str:
        """The signal has ended: read what has been waiting for more; return all that was said.

        A width above 0 has a beam look at all of it again.
        """
        self._hear(self._stream.end())
        self._read(self._trained.model.joined(len(self._frames)))
        if not width:
            return self.text
        return write(self._trained.spelling, np.concatenate(self.logits), width)

    def _hear(self, frames: NDArray[np.float32]) -> None:
        centred = (SCALE * self._mean.remove(frames)).astype(np.float32)
        self._frames = np.concatenate([self._frames, centred])

    def _read(self, count: int) -> None:
        """Read so many joined frames; zeros fill up the last."""
        if not count:
            return
        model, params, _, _ = self._trained
        taken, self._frames = np.split(self._frames, [count * model.join])
        xs = np.zeros((_power_of_two(count), 1, model.join * BANDS), np.float32)
        xs.reshape(-1, BANDS)[: len(taken)] = taken
        self._carry, found = _advance(model, params, self._carry, xs, np.array([count]))
        logits = np.asarray(found)[:count, 0]
        self.logits.append(logits)
        self._write(logits.argmax(-1))

    def _write(self, path: NDArray[np.integer]) -> None:
        """Go on with the likeliest path: repeats are merged, then blanks removed."""
        before = np.concatenate([[self._last], path[:-1]])
        self._labels += path[(path != before) & (path != 0)].tolist()
        self._last = int(path[-1])


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
