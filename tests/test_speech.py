"""The speech example: what it hears and writes, that a stream is the whole, runs, bad files.

Most tests have clips of their own, a tone for each digit, so that they need no data.
"""

import hashlib
import itertools
import json
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from scipy.io import wavfile

from examples import speech
from examples.support import (
    listener,
    recogniser,
    speech_figures,
    speech_folds,
    speech_results,
    speech_scores,
    spoken_digits,
    transcription,
    utterances,
)
from examples.support.cli import OptionError
from examples.support.datasets import ROOT
from examples.support.hearing import (
    RunningMean,
    Stream,
    Variation,
    hear,
    log_power,
    pieces,
    without_mean,
)
from examples.support.listener import Listener, Trained, whole, write
from examples.support.spelling import NAMES, Spelling
from examples.support.spoken_digits import (
    DIGITS,
    LONGEST_GAP,
    PARTS,
    RATE,
    SPEAKERS,
    Clip,
    Planner,
    join,
    select,
    strings,
)
from rnnjax import ctc, training
from rnnjax.testing import tolerance
from tests.data import DATA

pytestmark = pytest.mark.usefixtures("optax_promotion")

NUMBERS = (0, 1, 5, 6, 10, 11, 12, 13)  # of the clips below; some in each part
ROOT_FOLDER = Path(__file__).parents[1]
SINGLE = ("accuracy", "logistic_regression", "logistic_regression_by_speaker")
SPELLINGS = {"digits": Spelling(by_letter=False), "letters": Spelling(by_letter=True)}


def tone(digit, speaker, number):
    """A tone that is the digit, as loud as the speaker is, with a little noise."""
    generator = np.random.default_rng((digit, SPEAKERS.index(speaker), number))
    seconds = np.arange(generator.integers(900, 1100)) / RATE
    pitch = (300 + 300 * digit) * generator.uniform(0.99, 1.01)
    noise = 0.01 * generator.standard_normal(len(seconds))
    loudness = 0.5 / (1 + SPEAKERS.index(speaker))
    return (loudness * (np.sin(2 * np.pi * pitch * seconds) + noise)).astype(np.float32)


CLIPS = [
    Clip(digit, speaker, number, tone(digit, speaker, number))
    for digit in range(10)
    for speaker in SPEAKERS
    for number in NUMBERS
]


def a_string(digits=(3, 1, 1, 8, 0), speaker="lucas"):
    clips = [Clip(digit, speaker, 0, tone(digit, speaker, 0)) for digit in digits]
    return join(spoken_digits.Plan(tuple(clips), (900,) * (len(clips) - 1)))


def untrained(directions="forward", by_letter=False, single=False, join=3):
    spelling = Spelling(by_letter)
    layers = 2 if directions == "forward" else 1
    model = recogniser.Recogniser(spelling.size, 6, layers, directions, join)
    params = recogniser.initial_params(model, 1)
    params["head"]["w"] *= 8.0  # opinions that are strong enough to be written down
    return Trained(model, params, spelling, single)


# --- strings ---


def test_parts_have_no_clip_in_common():
    parts = {name: select(CLIPS, numbers) for name, numbers in PARTS.items()}
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 240,
        "validation": 120,
        "test": 120,
    }
    names = [{clip[:3] for clip in part} for part in parts.values()]
    assert len(set.union(*names)) == sum(map(len, names))
    assert sorted(n for numbers in PARTS.values() for n in numbers) == list(range(50))


def test_strings_are_of_one_speaker_and_one_part():
    clips = select(CLIPS, PARTS["test"])
    planner, generator = Planner(clips), np.random.default_rng(3)
    plans = [planner.draw(generator) for _ in range(300)]
    drawn = [clip for plan in plans for clip in plan.clips]
    assert {clip.number for clip in drawn} == {0, 1}
    assert all(len({clip.speaker for clip in plan.clips}) == 1 for plan in plans)
    assert {len(plan.clips) for plan in plans} == set(range(DIGITS[0], DIGITS[1] + 1))
    assert {clip.speaker for clip in drawn} == set(SPEAKERS)
    gaps = [gap for plan in plans for gap in plan.gaps]
    assert min(gaps) >= 0
    assert 0.95 * LONGEST_GAP * RATE < max(gaps) <= LONGEST_GAP * RATE


def test_a_string_is_its_clips_with_silence_between_them():
    plan = Planner(CLIPS).draw(np.random.default_rng(0))
    found = join(plan)
    assert len(found.samples) == len(plan)
    heard = np.zeros(len(plan), bool)
    for clip, (start, end), digit in zip(plan.clips, found.spans, found.digits, strict=True):
        assert (found.samples[start:end] == clip.samples).all()
        assert clip.digit == digit
        heard[start:end] = True
    assert not found.samples[~heard].any()
    assert (~heard).sum() == sum(plan.gaps)


def test_strings_follow_from_the_seed():
    first, again, other = (strings(CLIPS, 5, seed) for seed in (7, 7, 8))
    assert [s.digits for s in first] == [s.digits for s in again]
    assert all((a.samples == b.samples).all() for a, b in zip(first, again, strict=True))
    assert [s.digits for s in first] != [s.digits for s in other]


def test_a_fold_never_scores_what_it_has_learnt_from():
    for tuning in (False, True):
        folds = speech_folds.folds_of(CLIPS, "digit", "speaker", tuning, quick=False)
        assert sorted(fold.name for fold in folds) == list(SPEAKERS)
        for fold in folds:
            heard = {clip.speaker for clip in fold.train}
            scored = {clip.speaker for clip in fold.test}
            assert len(heard) == 5 - tuning
            assert scored == {fold.name}
            assert not heard & scored
            assert not fold.validation
    (fold,) = speech_folds.folds_of(CLIPS, "digits", "official", tuning=False, quick=False)
    assert len(fold.scored) == 500
    assert {clip.number for clip in fold.test} == {0, 1}
    assert {clip.number for clip in fold.train} == {10, 11, 12, 13}
    for tuning, learnt, scored in (
        (False, {5, 6, 10, 11, 12, 13}, {0, 1}),
        (True, {10, 11, 12, 13}, {5, 6}),
    ):
        (fold,) = speech_folds.folds_of(CLIPS, "digit", "official", tuning, quick=False)
        assert {clip.number for clip in fold.train} == learnt
        assert {clip.number for clip in fold.test} == scored
        assert len(fold.scored) == len(fold.test)
        assert not fold.validation


# --- spelling ---


@pytest.mark.parametrize("name", SPELLINGS)
def test_what_is_spelled_is_read_back(name):
    spelling = SPELLINGS[name]
    labels = spelling.encode(range(10))
    assert 0 not in labels  # the blank
    assert max(labels) == spelling.size - 1
    expected = " ".join(NAMES) if name == "letters" else "0 1 2 3 4 5 6 7 8 9"
    assert spelling.text(range(10)) == expected == spelling.decode([*labels, ctc.PADDING])
    assert spelling.decode([]) == ""


def test_the_longest_spelling_has_room():
    generator = np.random.default_rng(0)
    for spelling in SPELLINGS.values():
        most = utterances.most_labels(spelling)
        drawn = [spelling.encode(generator.integers(0, 10, DIGITS[1])) for _ in range(200)]
        assert max(map(len, drawn)) <= most
        assert most == len(spelling.encode([3] * DIGITS[1]))


# --- hearing ---


@pytest.mark.parametrize("count", [1, 150, 199, 200, 279, 280, 4_001])
@pytest.mark.parametrize("size", [1, 80, 133, 800])
def test_frames_of_a_stream_are_those_of_the_whole(count, size):
    samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    stream, mean = Stream(), RunningMean()
    parts = [*(stream.push(part) for part in pieces(samples, size / RATE)), stream.end()]
    frames = np.concatenate(parts)
    np.testing.assert_array_equal(frames, log_power(samples))
    centred = np.concatenate([mean.remove(part) for part in parts]) / 4
    expected = without_mean(frames, "forward")
    np.testing.assert_allclose(centred, expected, rtol=0, atol=tolerance("float32"))
    np.testing.assert_allclose(hear(samples, "forward"), expected, rtol=0, atol=1e-6)


def test_nothing_of_a_stream_is_heard_before_it_came():
    samples = np.random.default_rng(0).standard_normal(4_000).astype(np.float32)
    other = samples.copy()
    other[2_000:] = 0
    same = (2_000 - 200) // 80 + 1
    for directions, equal in (("forward", True), ("both", False)):
        pair = [hear(some, directions)[:same] for some in (samples, other)]
        assert np.array_equal(*pair) is equal


def test_how_loud_it_is_makes_no_difference():
    samples = tone(3, "george", 0)
    loud, quiet = (hear(factor * samples, "both") for factor in (1.0, 0.1))
    kept = log_power(0.1 * samples).min(0) > np.log(2e-6)  # bands that the floor does not touch
    assert kept.sum() > 20
    np.testing.assert_allclose(loud[:, kept], quiet[:, kept], atol=1e-4)


def test_variation_is_what_it_says():
    samples = np.concatenate([tone(3, "george", k) for k in range(4)])
    plain = log_power(samples)
    assert np.array_equal(Variation().hear(samples, np.random.default_rng(0)), plain)
    generator = np.random.default_rng(0)
    counts = [len(Variation(speed=0.2).hear(samples, generator)) for _ in range(60)]
    assert min(counts) == pytest.approx(len(plain) / 1.2, abs=2)
    assert max(counts) == pytest.approx(len(plain) / 0.8, abs=2)
    peaks = {int(Variation(warp=0.1).hear(samples, generator).mean(0).argmax()) for _ in range(40)}
    assert len(peaks) > 1
    assert abs(max(peaks) - min(peaks)) < 6
    noisy = Variation(noise=0.5).hear(samples, generator)
    assert noisy.shape == plain.shape
    assert noisy.mean() > plain.mean()


# --- batches ---


def source(**options):
    spelling = SPELLINGS["digits"]
    hearing = utterances.Hearing(spelling, "both", utterances.most_labels(spelling))
    options = {"seed": 0, "what": "tones"} | options
    return utterances.Fresh(Planner(CLIPS), hearing, Variation(0.1), 4, **options)


def test_batches_follow_from_seed_and_number():
    first, again = source(), source()
    same, *others = [s.batch(0, k) for s, k in ((first, 9), (again, 9), (first, 10))]
    assert all(np.array_equal(a, b) for a, b in zip(same, others[0], strict=True))
    assert not np.array_equal(same.lengths, others[1].lengths)
    other = source(seed=1)
    assert not np.array_equal(same.lengths, other.batch(0, 9).lengths)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_a_batch_holds_what_was_said():
    batches = source()
    for number in range(3):
        batch = batches.batch(0, number)
        said = [[clip.digit for clip in plan.clips] for plan in batches.plans(number)]
        rows = zip(batch.labels, batch.label_lengths, strict=True)
        assert [row[:count].tolist() for row, count in rows] == [
            [digit + 1 for digit in digits] for digits in said
        ]
        assert batch.xs.shape == (utterances.padded(batch.lengths.max()), 4, 40)
        for k, length in enumerate(batch.lengths):
            assert not batch.xs[length:, k].any()
            np.testing.assert_allclose(batch.xs[:length, k].mean(0), 0, atol=1e-5)


def test_fixed_batches_keep_the_order_and_are_filled_up():
    said = strings(CLIPS, 5, seed=0)
    hearing = utterances.Hearing(SPELLINGS["digits"], "both", 7)
    first, last = utterances.fixed(said, hearing, 3)
    assert first.lengths.tolist() == [len(log_power(one.samples)) for one in said[:3]]
    assert last.lengths[2] == last.label_lengths[2] == 0
    assert last.xs.shape[1] == 3


def test_utterances_too_short_for_their_labels_are_counted():
    trained = untrained("both", by_letter=True)
    frames = [np.ones((length, 40), np.float32) for length in (60, 9, 0)]
    labels = [[3, 4], [2, 2, 2], []]
    batch = recogniser.batch_of(frames, labels, 60, 3)
    loss = jax.jit(recogniser.ctc_loss, static_argnums=(0, 1))
    value, (_, metrics) = loss(trained.model, recogniser.NONE, trained.params, None, batch, None)
    assert metrics["tokens"] == 2  # a row without labels and frames has a path, of no frames
    assert metrics["too_short"] == 1 / 2
    assert 0 < value < 100


# --- networks ---


def test_padding_is_not_heard():
    trained, said = untrained("both"), a_string()
    frames = hear(said.samples, "both")
    logits = jax.jit(recogniser.logits, static_argnums=0)
    count = trained.model.joined(len(frames))
    short, long = (
        logits(trained.model, trained.params, recogniser.batch_of([frames], [[1]], time, 1))[:count]
        for time in (3 * count, 3 * count + 30)
    )
    np.testing.assert_allclose(short, long, rtol=0, atol=tolerance("float32"))


@pytest.fixture(scope="module")
def listening():
    """A network that reads forwards, a string, and what the whole of it is to the network."""
    trained, said = untrained(), a_string()
    return trained, said, np.asarray(whole(trained, said.samples))


@pytest.mark.parametrize("seconds", [0.1, 0.033, 10.0])
def test_a_stream_is_understood_as_the_whole(listening, seconds):
    trained, said, expected = listening
    ear = Listener(trained)
    heard = [ear.push(part) for part in pieces(said.samples, seconds)]
    text = ear.end()
    found = np.concatenate(ear.logits)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance("float32"))
    assert text == write(trained.spelling, expected, 0) != ""
    assert all(text.startswith(part) for part in heard)
    assert len(set(heard)) > 2 or seconds > 1


def test_a_beam_looks_at_all_of_a_stream(listening):
    trained, said, expected = listening
    ear = Listener(trained)
    for part in pieces(said.samples, 0.1):
        ear.push(part)
    assert ear.end(width=16) == write(trained.spelling, expected, 16)


def test_a_signal_shorter_than_a_frame_is_heard_at_its_end(listening):
    trained, said, _ = listening
    ear, samples = Listener(trained), said.samples[:150]
    assert ear.push(samples) == ""
    ear.end()
    expected = np.asarray(whole(trained, samples))
    np.testing.assert_allclose(ear.logits, expected[None], rtol=0, atol=tolerance("float32"))


def test_a_beam_looks_at_no_more_than_it_has_time_for(monkeypatch):
    spelling = SPELLINGS["digits"]
    logits = np.full((50, spelling.size), -50.0, np.float32)
    logits[:, :2] = np.log([0.6, 0.4])  # the blank is likelier at each frame, a 0 in most paths
    assert write(spelling, logits, 0) == ""
    assert set(write(spelling, logits, 8)) == {"0", " "}
    monkeypatch.setattr(listener, "MOST", 49)
    assert write(spelling, logits, 8) == ""


@pytest.mark.parametrize(("directions", "single"), [("both", False), ("forward", True)])
def test_what_cannot_listen_to_a_stream_is_told_so(directions, single):
    model = recogniser.Recogniser(11, directions=directions)
    with pytest.raises(ValueError, match="--directions forward"):
        Listener(Trained(model, {}, SPELLINGS["digits"], single))


def test_a_beam_wider_than_the_alphabet_is_a_beam(listening):
    """At the first frame there are fewer prefixes than it has room for."""
    _, _, logits = listening
    few, lengths = jnp.asarray(logits[:2, None]), jnp.array([2])
    wide = ctc.prefix_beam(few, lengths, width=100, n_best=100)
    assert wide.labels.shape[1] == 100 > few.shape[-1]
    kept = np.exp(wide.log_probabilities).sum()  # of 111 labellings
    assert 0.99 < kept < 1 + 1e-5
    assert (np.diff(wide.scores[0]) <= 0).all()
    with pytest.raises(ValueError, match="at most the number of labellings"):
        ctc.prefix_beam(few, lengths, width=112)


def test_labels_that_hold_the_blank_and_lengths_that_disagree_are_refused(listening):
    _, _, logits = listening
    logits, one = logits[:, None], np.array([1])
    with pytest.raises(ValueError, match="labels must not hold the blank, 0"):
        ctc.align(logits, np.array([[0]]), np.array([5]), one)
    with pytest.raises(ValueError, match=r"lengths must be .*\(1,\)"):
        ctc.align(logits, np.array([[1]]), np.array([5, 5]), one)
    with pytest.raises(ValueError, match="lengths must be within"):
        ctc.align(logits, np.array([[1]]), np.array([len(logits) + 1]), one)
    with pytest.raises(ValueError, match="label_lengths must be within"):
        ctc.loss(logits, np.array([[1]]), np.array([5]), np.array([2]))


# --- scores ---


def test_saying_nothing_is_wrong_in_every_digit():
    rates = speech_scores.error_rates(["three one", "two"], ["", ""], by_letter=True)
    assert rates == {"character_error_rate": 1, "digit_error_rate": 1}


def test_strings_are_scored_as_they_are_written():
    trained, said = untrained(), [a_string(), a_string((4, 2, 2, 9, 7))]
    hearing = utterances.Hearing(trained.spelling, "forward", 7)
    scores = speech_scores.score_strings(trained, said, hearing, 4)
    for name, width in (("greedy", 0), ("beam of 4", 4)):
        written = [write(trained.spelling, whole(trained, one.samples), width) for one in said]
        texts = [trained.spelling.text(one.digits) for one in said]
        assert scores["decoded"][name] == speech_scores.error_rates(texts, written, False)
    assert scores["digits"] == sum(len(one.digits) for one in said)


def test_the_baseline_knows_the_tones():
    train, test = select(CLIPS, PARTS["train"])[::2], select(CLIPS, PARTS["test"])[::2]
    swapped = [clip._replace(digit=(clip.digit + 1) % 10) for clip in test]
    folds = [speech_folds.Fold("", train, [], some, []) for some in (test, swapped)]
    for by_speaker in (False, True):
        assert speech_scores.baseline(folds, by_speaker=by_speaker) == [1, 0]


def test_bars_show_every_fold():
    folds = [{"fold": name, "accuracy": 0.9, "logistic_regression": 0.6} for name in SPEAKERS]
    (ax,) = speech_figures.bars(folds).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == [*SPEAKERS, "mean"]
    assert sorted({round(bar.get_height(), 9) for bar in ax.patches}) == [0.6, 0.9]
    assert len(ax.patches) == 2 * 7


# --- runs ---


SMALL = ["--quick", "--size", "20", "--layers", "1", "--steps", "160"]


@pytest.fixture(scope="module", autouse=True)
def _short():
    """The strings of tones are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "ONE_SHAPE", 256)
        yield


@pytest.fixture
def tones(monkeypatch):
    """The clips in place of the data set."""
    monkeypatch.setattr(spoken_digits, "read", lambda: CLIPS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the example that can listen to a stream."""
    out = tmp_path_factory.mktemp("runs") / "run"
    # As in the tests, so that they find its programs compiled.
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("raise"),
    ):
        patch.setattr(spoken_digits, "read", lambda: CLIPS)
        speech.command([*SMALL, "--directions", "forward", "--save", str(out)])
    return out


def read_scores(out):
    return json.loads((out / speech_results.SCORES).read_text())


def test_a_run_learns_and_leaves_its_scores(trained):
    scores = read_scores(trained)
    (fold,) = scores["folds"]
    assert fold["fold"] == "strings"
    assert fold["strings"] == speech_folds.QUICKLY
    assert fold["too_short"] == 0
    assert set(fold["decoded"]) == {"greedy", "beam of 16"}
    for rates in fold["decoded"].values():
        assert rates["digit_error_rate"] < 0.9
    assert scores["options"]["directions"] == "forward"
    pixels = imread(trained / speech_results.PICTURE)
    assert min(pixels.shape[:2]) > 700
    assert pixels.std() > 0.1


def test_a_stopped_run_goes_on_to_the_same_scores(trained, tones, tmp_path, monkeypatch):
    """With the options that it was begun with, whatever is typed then."""
    out, fit = tmp_path / "run", training.fit

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=steps // 2, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            speech.command([*SMALL, "--directions", "forward", "--out", str(out)])
    speech.command(["--resume", "--size", "7", "--out", str(out)])
    found, expected = (read_scores(run)["folds"][0] for run in (out, trained))
    assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-3)
    assert found["best_step"] == expected["best_step"]
    assert found["decoded"] == expected["decoded"]


def test_a_network_that_was_kept_is_the_one_that_was_scored(trained, tones):
    kept = transcription.load(trained)
    (fold,) = speech_folds.folds_of(CLIPS, "digits", "official", tuning=False, quick=True)
    hearing = speech.Options(quick=True, directions="forward").hearing
    scores = speech_scores.score_strings(kept, fold.scored, hearing, 16)
    assert scores["decoded"] == read_scores(trained)["folds"][0]["decoded"]


def test_single_digits_are_run(tones, tmp_path):
    out = tmp_path / "run"
    options = ["--task", "digit", "--split", "speaker", "--normalise", "speaker", "--steps", "30"]
    speech.command([*SMALL, *options, "--out", str(out)])
    scores = read_scores(out)
    assert [fold["fold"] for fold in scores["folds"]] == list(SPEAKERS[:2])
    for fold in scores["folds"]:
        assert fold["digits"] == 10 * len(NUMBERS)
        assert fold["logistic_regression"] == fold["logistic_regression_by_speaker"] == 1
        assert fold["interval"][0] <= fold["accuracy"] <= fold["interval"][1]
    assert scores["accuracy"] > 0.4
    assert (out / speech_results.PICTURE).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OptionError, match="--load: expected one network"):
        speech.main(speech.Options(load=(out, tmp_path / "a.wav")))
    with pytest.raises(OptionError, match="--load: expected a network that can hear anybody"):
        speech.main(speech.Options(load=(out / "run" / SPEAKERS[1], tmp_path / "a.wav")))


def test_single_digits_are_learnt_from_strings(tones, tmp_path):
    out = tmp_path / "run"
    speech.command([*SMALL, "--task", "digit", "--out", str(out)])
    scores = read_scores(out)
    assert scores["options"]["strings"] == [1, 3]
    assert scores["options"]["per"] == "frame"
    (fold,) = scores["folds"]
    assert fold["digits"] == 10 * len(SPEAKERS) * 2
    assert fold["accuracy"] > 0.3


def test_a_single_digit_is_scored_by_all_paths_that_say_it_alone():
    """Of two frames, those are d d, d –, and – d; of one, d."""
    trained = untrained("both")
    frames = np.random.default_rng(0).standard_normal((6, 40), np.float32)
    batch = recogniser.batch_of([frames, frames[:2]], [[], []], 6, 1)
    found = listener.digit_logits_of(trained.model, trained.params, batch)
    logits = listener.logits_of(trained.model, trained.params, batch)
    (first, one), (second, _) = np.asarray(jax.nn.softmax(logits))
    blanks = first[0] * second[1:] + first[1:] * second[0]
    expected = np.log([first[1:] * second[1:] + blanks, one[1:]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance("float32"))


def test_a_single_digit_is_named(tmp_path, capsys):
    path = write_file(tmp_path / "a.wav", tone(4, "lucas", 0))
    transcription.write_down(untrained("both", single=True), [path], 0.1, 16)
    named = capsys.readouterr().out.removeprefix(f"{path}: ")
    assert named[0] in "0123456789"
    assert named.endswith("%)\n")


def test_a_voice_is_told_without_what_was_said():
    (fold, *_) = speech_folds.folds_of(CLIPS, "digit", "speaker", tuning=False, quick=True)
    voices = speech_folds.voices_of(fold)
    assert set(voices) == set(SPEAKERS)
    wrong = [clip._replace(digit=9 - clip.digit) for clip in fold.test]
    same = speech_folds.voices_of(fold._replace(test=wrong))[fold.name]
    assert np.array_equal(same.mean, voices[fold.name].mean)
    heard = [voices[clip.speaker].remove(log_power(clip.samples)) for clip in fold.test]
    np.testing.assert_allclose(np.concatenate(heard).mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(heard).std(0), 1, atol=1e-4)


# --- files ---


def write_file(path, samples, rate=RATE, kind=np.int16):
    scale = 1 if np.dtype(kind).kind == "f" else np.iinfo(kind).max
    wavfile.write(path, rate, (samples * scale).astype(kind))
    return path


def listen(run, *files, code=None):
    arguments = ["--load", str(run), *map(str, files)]
    if code is None:
        return speech.command(arguments)
    with pytest.raises(SystemExit) as left:
        speech.command(arguments)
    assert left.value.code == code
    return None


def texts(out, files):
    """What was written of each file in the end."""
    found = dict(line.split(": ", 1) for line in out.splitlines() if ".wav: " in line)
    return [found[str(file)] for file in files]


def test_files_of_every_kind_are_heard(trained, tmp_path, capsys):
    samples = a_string().samples
    files = [
        write_file(tmp_path / "plain.wav", samples),
        write_file(tmp_path / "float.wav", samples, kind=np.float32),
        write_file(tmp_path / "stereo.wav", np.stack([samples, samples], 1)),
        write_file(tmp_path / "twice.wav", np.repeat(samples, 2) * 0.9, rate=2 * RATE),
    ]
    whole_bytes = np.round(samples * 2**23).astype("<i4").view("u1").reshape(-1, 4)[:, :3]
    files.append(three_bytes(tmp_path / "24.wav", whole_bytes.tobytes()))
    capsys.readouterr()
    listen(trained, *files)
    captured = capsys.readouterr()
    assert captured.err == ""
    plain, *others = texts(captured.out, files)
    assert plain
    assert others[0] == others[1] == others[3] == plain
    assert others[2]
    kept = transcription.load(trained)
    assert plain == write(kept.spelling, whole(kept, read_back(files[0])), 16)


def read_back(path):
    return (wavfile.read(path)[1] / 2**15).astype(np.float32)


def three_bytes(path, data):
    header = b"WAVEfmt " + np.array([16], "<u4").tobytes()
    header += np.array([1, 1], "<u2").tobytes() + np.array([RATE, 3 * RATE], "<u4").tobytes()
    header += np.array([3, 24], "<u2").tobytes()
    body = header + b"data" + np.array([len(data)], "<u4").tobytes() + data
    path.write_bytes(b"RIFF" + np.array([len(body)], "<u4").tobytes() + body)
    return path


def test_partial_results_come_as_they_are_understood(trained, tmp_path, capsys):
    path = write_file(tmp_path / "a.wav", a_string().samples)
    capsys.readouterr()
    listen(trained, path)
    *partial, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"{path}: ")
    seconds, understood = zip(*(line.split(" s  ") for line in partial), strict=True)
    assert list(map(float, seconds)) == sorted(set(map(float, seconds)))
    assert float(seconds[-1]) == pytest.approx(len(a_string().samples) / RATE, abs=0.2)
    assert all(b.startswith(a) for a, b in itertools.pairwise(understood))


def test_bad_files_are_named_and_the_others_are_done(trained, tmp_path, capsys):
    samples = a_string().samples
    good = write_file(tmp_path / "good.wav", samples)
    content = good.read_bytes()
    bad = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "text": b"this is no sound at all",
    }
    for name, data in bad.items():
        (tmp_path / f"{name}.wav").write_bytes(data)
    write_file(tmp_path / "silent.wav", 0 * samples)
    write_file(tmp_path / "hours.wav", np.tile(np.array([0, 0.5]), 1850), rate=1)
    names = [*bad, "silent", "hours", "missing"]
    files = [tmp_path / f"{name}.wav" for name in names]
    capsys.readouterr()
    listen(trained, *files[:3], good, *files[3:], code=2)
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert len(errors) == len(files)
    assert all(line.startswith("error: ") for line in errors)
    assert all(str(file) in line for file, line in zip(files, errors, strict=True))
    for line, word in zip(
        errors, ("empty", "truncated", "not a wav", "silent", "an hour", "No such"), strict=True
    ):
        assert word in line
    assert "Traceback" not in captured.err
    (text,) = texts(captured.out, [good])
    assert text


def test_without_the_data_it_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(ROOT, str(tmp_path))
    monkeypatch.setattr(spoken_digits.pooch, "os_cache", lambda name: tmp_path / "cache")
    with pytest.raises(SystemExit) as left:
        speech.command(["--quick", "--out", str(tmp_path / "run")])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert "python -m examples.speech --download" in error
    assert not (tmp_path / "run").exists()


def test_another_version_of_the_data_is_refused(tmp_path, monkeypatch):
    (tmp_path / "speech").mkdir()
    write_file(tmp_path / "speech/0_theo_1.wav", tone(0, "theo", 1))
    monkeypatch.setenv(ROOT, str(tmp_path))
    with pytest.raises(ValueError, match=r"3,000 clips with the sha256 .* found 1 "):
        spoken_digits.read()


def test_a_download_is_unpacked_and_checked(tmp_path, monkeypatch):
    name, archive = "3_theo_7.wav", tmp_path / "clips.tar.gz"
    path = write_file(tmp_path / name, tone(3, "theo", 7))
    line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n"
    monkeypatch.setattr(spoken_digits, "SHA256", hashlib.sha256(line.encode()).hexdigest())
    monkeypatch.setattr(spoken_digits.pooch, "os_cache", lambda name: tmp_path / "cache")

    def retrieve(address, known_hash, name, folder):
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(path, "clips-1/recordings/" + path.name)
        return str(archive)

    monkeypatch.setattr(spoken_digits.pooch, "retrieve", retrieve)
    monkeypatch.delenv(ROOT, raising=False)
    speech.command(["--download"])
    (clip,) = spoken_digits.read()
    assert clip[:3] == (3, "theo", 7)
    assert not archive.exists()
    monkeypatch.setattr(spoken_digits, "SHA256", "0" * 64)
    with pytest.raises(OptionError, match="expected clips with the sha256 0000"):
        speech.main(speech.Options(download=True))
    archive.write_bytes(b"broken")
    monkeypatch.setattr(spoken_digits.pooch, "retrieve", lambda *arguments: str(archive))
    with pytest.raises(OptionError, match="got a broken one"):
        speech.main(speech.Options(download=True))


BAD_OPTIONS = {
    "--size": ["--size", "0"],
    "--beam": ["--beam", "-1"],
    "--warp": ["--warp", "0.5"],
    "--average": ["--average", "1"],
    "--piece": ["--piece", "0"],
    "--strings": ["--strings", "3", "2"],
    "--per": ["--task", "digit", "--per", "utterance"],
    "--split": ["--split", "speaker"],
    "--normalise": ["--normalise", "speaker"],
    "--load": ["--load", "somewhere"],
    "--load: expected a run": ["--load", "nowhere", "a.wav"],
    "--out: expected a run": ["--resume", "--out", "nowhere"],
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_one_line(name, capsys):
    with pytest.raises(SystemExit) as left:
        speech.command(BAD_OPTIONS[name])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}")
    assert error.count("\n") == 1


# --- what was measured ---


def test_the_page_quotes_the_results():
    page, found = (ROOT_FOLDER / "docs/speech.md").read_text(), []
    for path in sorted((ROOT_FOLDER / "examples/results/speech").glob("*.json")):
        for fold in json.loads(path.read_text())["folds"]:
            rates = [rate for rates in fold.get("decoded", {}).values() for rate in rates.values()]
            found += [f"{rate:.2%}".replace("%", " %") for rate in rates]
            found += [f"{fold[name]:.1%}".replace("%", " %") for name in SINGLE if name in fold]
    assert len(found) > 10
    assert [figure for figure in found if figure not in page] == []


# --- the data ---


@pytest.mark.skipif(not (DATA / "speech").is_dir(), reason="needs the spoken digits of RNNJAX_DATA")
def test_the_clips_are_those_expected(monkeypatch):
    monkeypatch.setenv(ROOT, str(DATA))
    clips = spoken_digits.read()
    assert len(clips) == 3000
    parts = {name: len(select(clips, numbers)) for name, numbers in PARTS.items()}
    assert parts == {"train": 2400, "validation": 300, "test": 300}
    shortest = min(len(clip.samples) for clip in clips)
    assert 0.14 < shortest / RATE < 0.15
    for spelling in SPELLINGS.values():  # three joined frames leave a path for every clip
        said = utterances.singles(clips)
        labels = [spelling.encode(one.digits) for one in said]
        batch = recogniser.batch_of([np.zeros((1, 40))] * len(said), labels, 1, 8)
        frames = np.array([-(-len(log_power(one.samples)) // 3) for one in said])
        assert ctc.feasible(batch.labels, frames, batch.label_lengths).all()
