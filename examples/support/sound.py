"""From a wav file to what a network hears: log-mel frames, and masks to learn from.

    samples = read_wav(path, 8_000)
    features = remove_mean(log_mel(samples, 8_000))  # (T, D), a frame every 10 ms

Augment before frames are stacked: a mask over neighbouring bands is no longer one block after it.
"""

import functools
import math
import os
import warnings
from typing import BinaryIO, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import get_window, resample_poly

from rnnjax.array_typing import Array, Float, Int, Key

HOUR = 3600  # seconds
FLOOR = 1e-10  # of the power of a band, so that its logarithm is finite

ByteOrder: TypeAlias = Literal["little", "big"]
BYTE_ORDERS: dict[bytes, ByteOrder] = {b"RIFF": "little", b"RF64": "little", b"RIFX": "big"}

FULL_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}
"""What is 1 in samples of each kind; SciPy moves 24 bits to the upper end of 32."""


def read_wav(path: str | os.PathLike[str], rate: int) -> NDArray[np.float32]:
    """Read a wav file of 8, 16, 24 or 32 bits, or of floats, as samples (n,) in −1…1 at ``rate``.

    Channels are averaged; another rate is resampled by a polyphase filter.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated, no wav file, silent, longer than an hour, or has
            samples that are not finite; each names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        ...     wavfile.write(file.name, 16_000, np.array([[0, 0], [16384, 0]] * 8, np.int16))
        ...     read_wav(file.name, 16_000)[:4].tolist()
        [0.0, 0.25, 0.0, 0.25]
    """
    file_rate, raw = _read(path)
    if not raw.size:
        raise ValueError(f"{path}: no samples. Leave this file out.")
    if len(raw) > HOUR * file_rate:
        raise ValueError(
            f"{path}: {len(raw) / file_rate / 60:.0f} minutes, more than an hour. Cut it into "
            f"utterances."
        )
    samples = _as_floats(raw)
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: samples that are not finite. Write the file anew.")
    if samples.ndim == 2:
        samples = samples.mean(1)
    if np.ptp(samples) == 0:
        raise ValueError(f"{path}: silent, all samples are {samples[0]:g}. Leave this file out.")
    if file_rate != rate:
        common = math.gcd(rate, file_rate)
        samples = resample_poly(samples, rate // common, file_rate // common)
    return samples.astype(np.float32)


def _read(path: str | os.PathLike[str]) -> tuple[int, NDArray]:
    """Read rate and samples as they are in the file."""
    if not os.path.getsize(path):
        raise ValueError(f"{path}: the file is empty. Copy it anew, or leave it out.")
    with open(path, "rb") as file:
        header = file.read(12)
        if header[:4] not in BYTE_ORDERS or header[8:] != b"WAVE":
            raise ValueError(
                f"{path}: not a wav file, which begins RIFF…WAVE; got {header!r}. Convert it: "
                f"ffmpeg -i FILE out.wav."
            )
        if header[:4] != b"RF64":  # which has its sizes elsewhere
            _check_whole(path, file, BYTE_ORDERS[header[:4]])
    try:
        with warnings.catch_warnings():
            # What follows the samples, tags for instance, may be anything.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            return wavfile.read(path)
    except Exception as error:  # SciPy raises whatever the bytes lead to, struct.error for one
        raise ValueError(
            f"{path}: this wav file cannot be read: {error}. Convert it to 16-bit PCM: ffmpeg "
            f"-i FILE -c:a pcm_s16le out.wav."
        ) from error


def _check_whole(path: str | os.PathLike[str], file: BinaryIO, order: ByteOrder) -> None:
    """Go from chunk to chunk to the samples; SciPy returns those that are there, be they few."""
    size, place = os.path.getsize(path), 12
    while place + 8 <= size:
        file.seek(place)
        name, count = file.read(4), int.from_bytes(file.read(4), order)
        place += 8
        if name == b"data" and place + count > size:
            raise ValueError(
                f"{path}: truncated: {size - place:,} bytes of samples of {count:,}. Copy it anew, "
                f"or leave it out."
            )
        if name == b"data":
            return
        place += count + count % 2
    raise ValueError(f"{path}: truncated: it ends before the samples. Copy it anew.")


def _as_floats(raw: NDArray) -> NDArray[np.float64]:
    if raw.dtype.kind == "f":
        return raw.astype(np.float64)
    scale = FULL_SCALE[raw.dtype.str[1:]]
    zero = scale if raw.dtype.kind == "u" else 0.0  # 8-bit samples have no sign
    return (raw.astype(np.float64) - zero) / scale


def log_mel(
    samples: NDArray[np.floating],
    rate: int,
    *,
    bands: int = 40,
    window: float = 0.025,
    hop: float = 0.010,
    low: float = 20.0,
    high: float | None = None,
    floor: float = FLOOR,
) -> NDArray[np.float32]:
    """Return the log power (T, bands) in bands that are equally wide on the mel scale.

    For each frame, ``window`` seconds every ``hop`` seconds: a periodic Hann window, the power of
    its FFT, triangles over the frequencies from ``low`` to ``high`` (half the rate by default), the
    natural logarithm, of ``floor`` where there is less. The scale is HTK's,
    mel(f) = 2595 log10(1 + f / 700), and the triangles are 1 at their tips. Frames lie inside the
    signal; the rest at its end is left out, and a signal shorter than a frame is one frame with
    zeros behind it.

    Raises:
        ValueError: samples that are not (n,), or bands that are too many or out of range.

    Example:
        A second of 440 Hz: 98 frames, and the loudest band is the one around it.

        >>> tone = np.sin(2 * np.pi * 440 * np.arange(8_000) / 8_000)
        >>> features = log_mel(tone, 8_000)
        >>> features.shape, features.mean(0).argmax().item()
        ((98, 40), 9)
    """
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"log_mel: samples must be (n,), n at least 1; got {samples.shape}.")
    length, step = round(window * rate), round(hop * rate)
    if length < 1 or step < 1:
        raise ValueError(
            f"log_mel: window and hop must be at least one sample, {1 / rate:g} s; got {window} "
            f"and {hop}."
        )
    # Twice as long as need be: the narrow bands at the bottom are to hold a frequency each.
    points = 2 ** math.ceil(math.log2(2 * length))
    filters = mel_filters(rate, points, bands, low, rate / 2 if high is None else high)
    samples = np.pad(samples, (0, max(length - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::step]
    spectrum = np.fft.rfft(frames * get_window("hann", length), points)
    return np.log(np.maximum(np.abs(spectrum) ** 2 @ filters, floor)).astype(np.float32)


@functools.lru_cache(maxsize=16)
def mel_filters(rate: int, points: int, bands: int, low: float, high: float) -> NDArray[np.float64]:
    """Return triangles (frequencies, bands) over those of an FFT of so many points.

    Raises:
        ValueError: bands out of range, or so narrow that one holds no frequency of the FFT.

    Example:
        >>> filters = mel_filters(8_000, 512, 40, 20.0, 4_000.0)
        >>> filters.shape, bool((filters.max(0) > 0.5).all())
        ((257, 40), True)
    """
    if bands < 1 or not 0 <= low < high <= rate / 2:
        raise ValueError(
            f"mel_filters: bands must be at least 1 and 0 ≤ low < high ≤ rate / 2 = {rate / 2:g}; "
            f"got {bands} bands, low={low:g}, high={high:g}."
        )
    mel_low, mel_high = 2595 * np.log10(1 + np.array([low, high]) / 700)
    corners = 700 * (10 ** (np.linspace(mel_low, mel_high, bands + 2) / 2595) - 1)
    left, tip, right = corners[:-2], corners[1:-1], corners[2:]
    frequencies = np.fft.rfftfreq(points, 1 / rate)[:, None]
    rising, falling = (frequencies - left) / (tip - left), (right - frequencies) / (right - tip)
    filters = np.maximum(0, np.minimum(rising, falling))
    if not filters.any(0).all():
        raise ValueError(
            f"mel_filters: {bands} bands from {low:g} to {high:g} Hz are narrower than the "
            f"{rate / points:g} Hz between frequencies. Take fewer bands or a longer window."
        )
    return filters


def remove_mean(features: NDArray[np.floating]) -> NDArray[np.floating]:
    """Subtract the mean over the frames of one utterance (T, D): loudness and microphone go.

    Example:
        >>> remove_mean(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    return features - features.mean(0, keepdims=True)


def stack_frames(xs: Float[Array, "T ..."], count: int) -> Array:
    """Join each ``count`` frames into one, (T, …, D) → (⌈T / count⌉, …, count · D).

    Zeros, the mean where ``remove_mean`` went before, fill up the last; lengths become
    −(−lengths // count), and padding has to be zero for rows to be independent of it.

    Example:
        >>> stack_frames(jnp.arange(10).reshape(5, 2), 2).tolist()
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    """
    if count < 1:
        raise ValueError(f"stack_frames: count must be at least 1; got {count}.")
    xs = jnp.asarray(xs)
    missing = -len(xs) % count
    xs = jnp.pad(xs, [(0, missing)] + [(0, 0)] * (xs.ndim - 1))
    blocks = xs.reshape(-1, count, *xs.shape[1:])
    joined = jnp.moveaxis(blocks, 1, -2)  # (T', …, count, D)
    return joined.reshape(*joined.shape[:-2], -1)


def spec_augment(
    key: Key,
    xs: Float[Array, "T B D"],
    lengths: Int[Array, " B"],
    *,
    time_masks: int = 2,
    time_width: int = 20,
    share: float = 0.2,
    band_masks: int = 2,
    band_width: int = 8,
) -> Float[Array, "T B D"]:
    """Put zeros over some frames and over some bands, anew for each row (SpecAugment).

    A mask is 0 … width wide, ``time_width`` frames or ``band_width`` bands, both ends included, and
    lies anywhere where it fits; one over time covers at most ``share`` of its row's frames. Park et
    al. 2019, without the warping of time. Zero is the mean where ``remove_mean`` went before. Pure
    JAX: it can stand inside a loss.

    Example:
        >>> xs = jnp.ones((50, 2, 40))
        >>> masked = spec_augment(jax.random.key(0), xs, jnp.array([50, 30]))
        >>> masked.shape, 0.4 < float(masked.mean()) < 1.0
        ((50, 2, 40), True)
    """
    time, batch, bands = xs.shape
    if not 0 <= share <= 1 or min(time_masks, time_width, band_masks, band_width) < 0:
        raise ValueError("spec_augment: share must be in [0, 1], masks and widths at least 0.")
    k_time, k_band = jax.random.split(key)
    widest = jnp.minimum(time_width, jnp.floor(share * lengths).astype(jnp.int32))
    over_time = _masks(k_time, time_masks, time, widest, lengths)
    all_bands = jnp.full((batch,), bands)
    over_bands = _masks(k_band, band_masks, bands, jnp.minimum(band_width, all_bands), all_bands)
    return jnp.where(over_time.T[..., None] | over_bands[None], 0.0, xs)


def _masks(key: Key, count: int, size: int, widest: Array, lengths: Array) -> Array:
    """Return where in each row (B, size) any of so many masks of 0…widest (B,) lies."""
    k_width, k_start = jax.random.split(key)
    shape = (count, len(lengths))
    widths = jax.random.randint(k_width, shape, 0, widest[None] + 1)
    starts = jax.random.randint(k_start, shape, 0, lengths[None] - widths + 1)
    places = jnp.arange(size)[None, None]
    inside = (starts[..., None] <= places) & (places < (starts + widths)[..., None])
    return inside.any(0)
