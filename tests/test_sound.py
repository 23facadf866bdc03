"""Sound: wav files of every kind, log-mel frames against a plain loop and librosa, masks."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import wavfile

from examples.support.datasets import ROOT
from examples.support.sound import (
    log_mel,
    mel_filters,
    read_wav,
    remove_mean,
    spec_augment,
    stack_frames,
)
from tests.data import DATA

RATE = 8_000
SIGNAL = 0.5 * np.random.default_rng(0).uniform(-1, 1, 1_001)


def wav(path, data, bits, *, rate=RATE, channels=1, code=1, extra=b""):
    """Write bytes of samples behind a header of our own."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + extra
    chunks += b"data" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return path


def three_bytes(samples):
    whole = np.round(samples * 2**23).astype("<i4")
    return whole.view("u1").reshape(-1, 4)[:, :3].tobytes()


KINDS = {
    "8-bit": (8, 1, lambda x: np.round(128 + x * 128).astype("u1").tobytes()),
    "16-bit": (16, 1, lambda x: np.round(x * 2**15).astype("<i2").tobytes()),
    "24-bit": (24, 1, three_bytes),
    "32-bit": (32, 1, lambda x: np.round(x * 2**31).astype("<i4").tobytes()),
    "32-bit float": (32, 3, lambda x: x.astype("<f4").tobytes()),
    "64-bit float": (64, 3, lambda x: x.astype("<f8").tobytes()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_every_kind(kind, tmp_path):
    bits, code, encode = KINDS[kind]
    path = wav(tmp_path / "a.wav", encode(SIGNAL), bits, code=code)
    got = read_wav(path, RATE)
    assert got.dtype == np.float32
    assert np.abs(got - SIGNAL).max() <= 0.51 * 2.0 ** -min(bits - 1, 23)
    stereo = np.stack([SIGNAL, -0.5 * SIGNAL], 1).ravel()
    path = wav(tmp_path / "b.wav", encode(stereo), bits, code=code, channels=2)
    assert np.abs(read_wav(path, RATE) - 0.25 * SIGNAL).max() <= 1.1 * 2.0 ** -min(bits - 1, 23)


def test_tags_are_passed_over(tmp_path):
    tags = b"LIST" + struct.pack("<I", 4) + b"INFO" + b"what" + struct.pack("<I", 2) + b"so"
    data = KINDS["16-bit"][2](SIGNAL)
    got = read_wav(wav(tmp_path / "a.wav", data, 16, extra=tags), RATE)
    np.testing.assert_array_equal(got, read_wav(wav(tmp_path / "b.wav", data, 16), RATE))


@pytest.mark.parametrize("file_rate", [4_000, 16_000, 11_025])
def test_another_rate_keeps_time_and_pitch(file_rate, tmp_path):
    time = np.arange(file_rate) / file_rate
    data = KINDS["16-bit"][2](0.5 * np.sin(2 * np.pi * 440 * time))
    got = read_wav(wav(tmp_path / "a.wav", data, 16, rate=file_rate), RATE)
    assert len(got) == RATE
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert np.abs(got - wanted)[100:-100].max() < 0.01  # the filter sees zeros beyond the ends


def whole(path):
    return wav(path, KINDS["16-bit"][2](SIGNAL), 16)


def cut(path, by=10):
    path.write_bytes(whole(path).read_bytes()[:-by])


def promise_too_much(path):
    """Samples are missing, and only the data chunk says so."""
    data = bytearray(whole(path).read_bytes())
    data[40:44] = struct.pack("<I", 10_000)
    path.write_bytes(data)


BROKEN = {
    "empty": (lambda p: p.write_bytes(b""), "the file is empty"),
    "truncated": (cut, "truncated: 1,992 bytes of samples of 2,002"),
    "truncated in the header": (lambda p: cut(p, 2010), "truncated: it ends before"),
    "fewer samples than promised": (
        promise_too_much,
        "truncated: 2,002 bytes of samples of 10,000",
    ),
    "text": (lambda p: p.write_text("I am no sound."), "not a wav file.*I am no soun"),
    "short text": (lambda p: p.write_text("no"), "not a wav file"),
    "mp3 inside": (lambda p: wav(p, b"12345678", 16, code=0x55), "cannot be read.*Convert it"),
    "no samples": (lambda p: wav(p, b"", 16), "no samples"),
    "silent": (lambda p: wav(p, b"\0" * 500, 16), "silent, all samples are 0"),
    "silent at 8 bits": (lambda p: wav(p, b"\x80" * 500, 8), "silent"),
    "nan": (
        lambda p: wav(p, np.array([0.1, np.nan], "<f4").tobytes(), 32, code=3),
        "not finite",
    ),
    "two hours": (lambda p: wav(p, b"\0\1" * 7_200, 8, rate=2), "120 minutes, more than an hour"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_serve_is_named(case, tmp_path):
    write, words = BROKEN[case]
    path = tmp_path / "broken.wav"
    write(path)
    with pytest.raises(ValueError, match=words) as error:
        read_wav(path, RATE)
    assert str(path) in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        read_wav(tmp_path / "gone.wav", RATE)


def plain_log_mel(samples, rate, bands, window, hop, low, high):
    """The same, one frame, frequency and band after the other; the Fourier sum written out."""
    length, step = int(window * rate), int(hop * rate)
    points = 1
    while points < 2 * length:
        points *= 2
    mels = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700), bands + 2)
    hertz = [700 * (10 ** (m / 2595) - 1) for m in mels]
    n = np.arange(length)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / length)
    rows = []
    for start in range(0, len(samples) - length + 1, step):
        frame = hann * samples[start : start + length]
        power = np.zeros(bands)
        for k in range(points // 2 + 1):
            p = abs(np.sum(frame * np.exp(-2j * np.pi * k * n / points))) ** 2
            f = k * rate / points
            for d in range(bands):
                if hertz[d] < f <= hertz[d + 1]:
                    power[d] += p * (f - hertz[d]) / (hertz[d + 1] - hertz[d])
                elif hertz[d + 1] < f < hertz[d + 2]:
                    power[d] += p * (hertz[d + 2] - f) / (hertz[d + 2] - hertz[d + 1])
        rows.append(np.log(power))
    return np.array(rows)


def test_log_mel_is_the_plain_loop():
    got = log_mel(SIGNAL[:700], RATE, bands=13, window=0.02, hop=0.015, low=100, high=3_500)
    wanted = plain_log_mel(SIGNAL[:700], RATE, 13, 0.02, 0.015, 100, 3_500)
    assert got.shape == wanted.shape == (5, 13)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_log_mel_is_librosas():
    feature = pytest.importorskip("librosa.feature", reason="needs librosa: pip install librosa")
    length, points = 200, 512
    # librosa puts a window into the middle of the points.
    before = (points - length) // 2
    padded = np.pad(SIGNAL, (before, points - length - before))
    mel = feature.melspectrogram(
        y=padded, sr=RATE, n_fft=points, win_length=length, hop_length=80, center=False,
        window="hann", power=2.0, n_mels=40, fmin=20.0, fmax=4_000.0, htk=True, norm=None,
        dtype=np.float64,
    )  # fmt: skip
    np.testing.assert_allclose(log_mel(SIGNAL, RATE), np.log(mel).T, rtol=1e-4)


def test_a_frame_of_silence_and_a_short_signal_are_finite():
    quiet = np.concatenate([SIGNAL, np.zeros(400)])
    features = log_mel(quiet, RATE)
    np.testing.assert_allclose(features[-1], np.log(1e-10), rtol=1e-6)
    short = log_mel(SIGNAL[:50], RATE)
    np.testing.assert_array_equal(short, log_mel(np.pad(SIGNAL[:50], (0, 150)), RATE))
    assert short.shape == (1, 40)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: log_mel(SIGNAL[:, None], RATE), r"samples must be \(n,\)"),
        (lambda: log_mel(SIGNAL[:0], RATE), "n at least 1"),
        (lambda: log_mel(SIGNAL, RATE, hop=0.0), "at least one sample, 0.000125 s"),
        (lambda: log_mel(SIGNAL, RATE, bands=400), "400 bands .* fewer bands or a longer window"),
        (lambda: log_mel(SIGNAL, RATE, high=5_000.0), r"high ≤ rate / 2 = 4000; .* high=5000"),
        (lambda: mel_filters(RATE, 512, 0, 20.0, 4_000.0), "bands must be at least 1"),
        (lambda: stack_frames(np.zeros((4, 2)), 0), "count must be at least 1"),
        (
            lambda: spec_augment(
                jax.random.key(0), jnp.zeros((4, 1, 2)), jnp.array([4]), share=1.5
            ),
            "share must be in",
        ),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_loudness_goes_with_the_mean():
    loud, quiet = (remove_mean(log_mel(scale * SIGNAL, RATE)) for scale in (1.0, 0.1))
    np.testing.assert_allclose(loud, quiet, atol=1e-4)
    np.testing.assert_allclose(loud.mean(0), 0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_stacked_frames_are_neighbours(count):
    xs = np.random.default_rng(1).normal(size=(7, 2, 3)).astype(np.float32)
    got = stack_frames(xs, count)
    assert got.shape == (-(-7 // count), 2, 3 * count)
    for t, b, d in np.ndindex(got.shape):
        frame = t * count + d // 3
        assert got[t, b, d] == (xs[frame, b, d % 3] if frame < 7 else 0)


def test_masks_lie_in_their_rows_and_differ_between_rows():
    time, bands = 60, 12
    lengths = np.array([60, 31, 4, 0] * 16, np.int32)
    xs = jnp.ones((time, len(lengths), bands))

    @jax.jit
    def draw(key):
        options = {"time_masks": 1, "time_width": 9, "band_masks": 1, "band_width": 3}
        return spec_augment(key, xs, lengths, **options)

    masked = np.concatenate([draw(jax.random.key(seed)) for seed in range(8)], 1) == 0
    counts = np.tile(lengths, 8)
    frames, columns = masked.all(2), masked.all(0)  # (T, B), (B, D)
    assert (masked == (frames[..., None] | columns[None])).all()
    widths = frames.sum(0)
    assert (widths <= np.minimum(9, counts // 5)).all()
    assert set(widths[counts == 60]) == set(range(10))
    assert set(columns.sum(1)) == set(range(4))
    for line in (*frames.T, *columns):  # one block each
        assert np.abs(np.diff(np.concatenate([[0], line, [0]]).astype(int))).sum() in (0, 2)
    longest = frames[:, counts == 60]
    assert longest.any(1).all()  # every frame is hit by some mask
    assert not frames[31:, counts == 31].any()
    assert columns.any(0).all()
    none = {"time_masks": 0, "band_masks": 0}
    np.testing.assert_array_equal(spec_augment(jax.random.key(0), xs, lengths, **none), xs)


def test_the_spoken_digits():
    """One clip of each digit and speaker: its length, and log-mel frames that are finite."""
    files = sorted((DATA / "speech").glob("?_*_[0-9].wav"))
    if len(files) != 600:
        pytest.skip(f"needs the Free Spoken Digit Dataset in speech/ of the folder {ROOT}")
    for path in files[::10]:
        samples = read_wav(path, RATE)
        rate, raw = wavfile.read(path)
        assert rate == RATE
        np.testing.assert_array_equal(samples, raw / np.float32(2**15))
        features = remove_mean(log_mel(samples, RATE))
        assert features.shape == (1 + (len(raw) - 200) // 80, 40)
        assert np.isfinite(features).all()
        assert features.std() > 0.5
