"""What a recogniser hears: frames of a whole utterance, varied ones to learn from, a stream.

A frame is the log power in 40 mel bands, 100 a second, less a mean, so that it does not matter how
loud a speaker is or what the microphone does. For a network that reads both ways it is the mean
over the utterance. One that only reads forwards cannot know that; it gets the mean so far,

    m_t = (κ m + Σ_{s ≤ t} x_s) / (κ + t),

which begins as m, an ordinary frame, counted κ times. It can be told from the past alone, so that
frames that come in pieces are those of the whole. Where a speaker is known, the mean and the spread
over many of the speaker's clips can be taken instead (``Voice``).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from examples.support import sound
from examples.support.spoken_digits import RATE

Directions = Literal["both", "forward"]
BANDS = 40
WINDOW, HOP = 0.025, 0.010  # seconds
HIGH = 3_400.0  # Hz, the upper end of the bands; below 4,000, so that it can be varied
FLOOR = 1e-6  # of the power of a band; some way above the rounding to 16 bits, so silence is even
SCALE = 0.25  # of log power, so that a network reads numbers of about 1
ORDINARY, COUNTED = -6.0, 30.0  # m, κ
PIECE = 10.0  # seconds that are turned into frames at once
NONE = np.zeros((0, BANDS), np.float32)
STEPS = 20  # factors of speed are multiples of 1 / 20, upper ends of bands are so many


def log_power(samples: NDArray[np.floating], high: float = HIGH) -> NDArray[np.float32]:
    """The log power (T, 40) of samples (n,)."""
    return sound.log_mel(samples, RATE, bands=BANDS, window=WINDOW, hop=HOP, high=high, floor=FLOOR)


class RunningMean:
    """Takes from each frame the mean so far.

    Example:
        >>> frames, mean = np.random.default_rng(0).normal(size=(9, 40)), RunningMean()
        >>> parts = [mean.remove(frames[:4]), mean.remove(frames[4:])]
        >>> bool(np.allclose(np.concatenate(parts), RunningMean().remove(frames), atol=1e-12))
        True
    """

    def __init__(self):
        self._sum, self._count = np.full(BANDS, ORDINARY * COUNTED), COUNTED

    def remove(self, frames: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return frames (T, 40) less their means, and remember them."""
        if not len(frames):
            return frames
        sums = self._sum + np.cumsum(frames, 0, dtype=np.float64)
        counts = self._count + np.arange(1, len(frames) + 1)
        self._sum, self._count = sums[-1], float(counts[-1])
        return frames - sums / counts[:, None]


def without_mean(frames: NDArray[np.floating], directions: Directions) -> NDArray[np.float32]:
    """Return frames (T, 40) as a network that reads in these directions hears them."""
    centred = sound.remove_mean(frames) if directions == "both" else RunningMean().remove(frames)
    return (SCALE * centred).astype(np.float32)


class Voice(NamedTuple):
    """What a speaker sounds like on the whole, whatever is said: mean and spread of each band."""

    mean: NDArray[np.float32]  # (40,)
    spread: NDArray[np.float32]  # (40,)

    def remove(self, frames: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the frames (T, 40) of one clip less the mean, in units of the spread."""
        return ((_levelled(frames) - self.mean) / self.spread).astype(np.float32)


def voice_of(clips: Iterable[NDArray[np.floating]]) -> Voice:
    """Mean and spread over all frames (T, 40) of many clips of a speaker; labels are not needed.

    Unlike the mean of one word, that of many leaves what tells the word from others.

    Example:
        >>> clips = [np.random.default_rng(k).normal(k, 2, (50, 40)) for k in range(3)]
        >>> heard = np.concatenate([voice_of(clips).remove(clip) for clip in clips])
        >>> bool(np.allclose(heard.mean(0), 0, atol=1e-5)), bool(np.allclose(heard.std(0), 1))
        (True, True)
    """
    frames = np.concatenate([_levelled(clip) for clip in clips])
    return Voice(frames.mean(0), np.maximum(frames.std(0), 1e-3))


def _levelled(frames: NDArray[np.floating]) -> NDArray[np.floating]:
    """Shift a clip so that its loudest band is at 0: how near the microphone was does not count."""
    return frames - frames.max()


@dataclass(frozen=True)
class Variation:
    """How far an utterance is changed each time that it is learnt from.

    Attributes:
        speed: said so much faster or slower, a share, and higher or lower with it.
        warp: with the bands so much wider or narrower, as in a longer or shorter vocal tract.
        noise: the strongest white noise, as a share of the loudest sample.
    """

    speed: float = 0.0
    warp: float = 0.0
    noise: float = 0.0

    def hear(
        self, samples: NDArray[np.float32], generator: np.random.Generator
    ) -> NDArray[np.float32]:
        """The log power (T, 40) of samples (n,), varied.

        Example:
            >>> generator, tone = np.random.default_rng(0), np.sin(np.arange(8_000, dtype="f4"))
            >>> lengths = {len(Variation(speed=0.2).hear(tone, generator)) for _ in range(50)}
            >>> min(lengths) >= 79 and max(lengths) <= 123 and len(lengths) > 5
            True
        """
        steps = _draw(generator, self.speed * STEPS)
        samples = resample_poly(samples, STEPS, STEPS + steps) if steps else samples
        if self.noise:
            # From nothing to the strongest, each power of ten as often as the next.
            level = np.abs(samples).max() * self.noise * 10 ** generator.uniform(-3, 0)
            samples = samples + level * generator.standard_normal(len(samples), np.float32)
        return log_power(samples, HIGH * (1 + _draw(generator, self.warp * STEPS) / STEPS))


def _draw(generator: np.random.Generator, most: float) -> int:
    """Draw a whole number in −most … most."""
    return int(generator.integers(-round(most), round(most) + 1))


class Stream:
    """Log power of a signal that comes in pieces: each frame as soon as it is there.

    Example:
        >>> samples = np.random.default_rng(0).normal(size=1_000)
        >>> stream = Stream()
        >>> parts = [*map(stream.push, np.split(samples, [150, 600])), stream.end()]
        >>> same = np.allclose(np.concatenate(parts), log_power(samples))
        >>> [len(part) for part in parts], bool(same)
        ([0, 6, 5, 0], True)
    """

    def __init__(self):
        self._rest, self._begun = np.zeros(0, np.float32), False

    def push(self, samples: NDArray[np.floating]) -> NDArray[np.float32]:
        """Take up samples (n,), n ≥ 0; return the frames (t, 40), t ≥ 0, that they complete."""
        self._rest = np.concatenate([self._rest, samples])
        if len(self._rest) < round(WINDOW * RATE):
            return NONE
        frames = log_power(self._rest)
        self._rest, self._begun = self._rest[len(frames) * round(HOP * RATE) :], True
        return frames

    def end(self) -> NDArray[np.float32]:
        """Return the one frame of a signal that was shorter than one, or none."""
        return NONE if self._begun or not len(self._rest) else log_power(self._rest)


def hear(samples: NDArray[np.floating], directions: Directions) -> NDArray[np.float32]:
    """The frames (T, 40) of samples (n,) of any length, as a network hears them."""
    stream = Stream()  # in pieces, because spectra take much more room than frames
    parts = [*map(stream.push, pieces(samples, PIECE)), stream.end()]
    return without_mean(np.concatenate(parts), directions)


def pieces(samples: NDArray, seconds: float) -> Iterator[NDArray]:
    """Cut samples into pieces of so many seconds; the last is shorter."""
    size = max(1, round(seconds * RATE))
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
