"""The captioning example: scenes and folders without leaks, four ways to see, runs, bad input."""

import functools
import itertools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.image import imread
from PIL import Image

from examples import captioning
from examples.support import (
    albums,
    caption_results,
    caption_scores,
    captioned_folder,
    captioner,
    describing,
    handwritten,
    scenes,
)
from examples.support.captioner import Captioner, Slots
from examples.support.datasets import ROOT
from examples.support.describing import Beam, Trained
from examples.support.handwritten import Handwritten
from examples.support.scenes import GAP, Painter, kept_for
from examples.support.subwords import words_and_digits
from rnnjax import training
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, largest_difference
from tests.compilation import compiled_quickly
from tests.data import DATA

pytestmark = pytest.mark.usefixtures("optax_promotion")

TINY = ["--quick", "--size", "8", "--embedding", "4", "--widths", "4", "4", "8", "--batch", "8"]
TINY += ["--steps", "6", "--beam", "1"]
COLOURS = ["red", "green", "blue", "black", "yellow", "pink", "brown", "grey"]
HEIGHTS = {"dot": 4, "square": 16, "bar": 28, "tower": 40}
INJECTS = ["attention", "first", "init", "slots"]


def run_captioning(*argv, code=None):
    with compiled_quickly():
        if code is None:
            captioning.command([str(word) for word in argv])
        else:
            with pytest.raises(SystemExit) as left:
                captioning.command([str(word) for word in argv])
            assert left.value.code == code


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """A run on scenes of digits."""
    out = tmp_path_factory.mktemp("runs") / "sheets"
    run_captioning(*TINY, "--save", out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shapes of eight colours, each with a sentence; numbered names."""
    path = tmp_path_factory.mktemp("pictures")
    lines = ["image\ten\tvi\n"]
    for colour, shape, n in itertools.product(COLOURS, HEIGHTS, range(2)):
        image = Image.new("RGB", (48, 48), "white")
        image.paste(colour, (4 + n, 4, 20 + n, 4 + HEIGHTS[shape]))
        image.save(path / f"{colour}_{shape}{n}.png")
        lines.append(f"{colour}_{shape}{n}.png\tA {colour} {shape}.\t{'Một hình.' if n else ''}\n")
    (path / "captions.tsv").write_text("".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def stamps(folder, tmp_path_factory):
    """A run on the folder, by the picture as what is read first."""
    out = tmp_path_factory.mktemp("runs") / "stamps"
    first = ["--inject", "first", "--subwords", "60", "--steps", "100", "--learning-rate", "0.02"]
    run_captioning(*TINY, *first, "--size", "24", "--dropout", "0", "--data", folder, "--out", out)
    return out


def scores_of(out):
    return json.loads((out / "scores.json").read_text("utf-8"))


# --- scenes ---


def hand():
    """Ten pictures of each digit, none like another: all ink, but for one pixel."""
    pictures = np.ones((100, 10, 10), np.float32)
    pictures[np.arange(100), np.arange(100) // 10, np.arange(100) % 10] = 0
    return Handwritten(pictures, np.arange(100, dtype=np.int32) % 10)


def test_every_digit_is_kept_equally_often_in_both_places():
    pairs = list(itertools.product(range(10), repeat=2))
    for part, count in (("train", 7), ("validation", 1), ("test", 2)):
        kept = [pair for pair in pairs if kept_for(*pair) == part]
        for place in (0, 1):
            digits = [pair[place] for pair in kept]
            assert [digits.count(digit) for digit in range(10)] == [count] * 10


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_scenes_have_the_pairs_of_their_part(part):
    drawn = Painter(hand(), part).draw_many(200, seed=5)
    found = [[kept_for(*p) for p in itertools.combinations(s.digits, 2)] for s in drawn]
    assert all(part in kinds and set(kinds) <= {"train", part} for kinds in found)
    assert {len(scene.digits) for scene in drawn} == {2, 3}
    assert {scene.downwards for scene in drawn} == {True, False}
    assert len({scene.caption("en") for scene in drawn}) > 60


def test_digits_stand_plainly_and_apart():
    generator = np.random.default_rng(0)
    for _ in range(100):
        sizes = generator.integers(16, 21, generator.integers(2, 4))
        downwards, corners = scenes.places(generator, sizes)
        centres = corners + sizes[:, None] / 2
        along, across = (0, 1) if downwards else (1, 0)
        assert (np.diff(centres[:, along]) >= GAP).all()
        assert np.ptp(centres[:, along]) >= np.ptp(centres[:, across]) + GAP
        covered = np.zeros((64, 64), int)
        for size, (top, left) in zip(sizes, corners, strict=True):
            covered[top : top + size, left : left + size] += 1
        assert covered.max() == 1
        assert covered.sum() == (sizes**2).sum()  # none beyond the sheet


def test_scenes_follow_from_the_seed_and_show_their_digits():
    painter = Painter(hand(), "train", turn=10.0)
    one, again, other = (painter.draw_many(20, seed) for seed in (1, 1, 2))
    assert all((a.canvas == b.canvas).all() for a, b in zip(one, again, strict=True))
    assert any((a.canvas != b.canvas).any() for a, b in zip(one, other, strict=True))
    labels = hand().digits
    assert all(tuple(labels[list(s.rows)]) == s.digits for s in one)


def test_a_digit_that_is_not_turned_is_only_scaled():
    picture = Image.fromarray(np.arange(0, 200, 2, np.uint8).reshape(10, 10))
    expected = np.asarray(picture.resize((20, 20), Image.Resampling.BILINEAR), int)
    found = scenes.written(picture, 20, 0.0).astype(int)
    assert np.abs(found - expected)[1:-1, 1:-1].max() <= 1
    turned = scenes.written(picture, 20, 90.0).astype(int)
    assert np.abs(turned - np.rot90(found, -1))[1:-1, 1:-1].max() <= 1


def test_one_who_is_told_the_places_knows_what_was_learnt():
    part = hand()
    parts = handwritten.Split(part, part, part)
    drawn = Painter(part, "test").draw_many(30, 0)
    said = albums.told(parts, {"test": drawn}, "vi")["test"]
    assert said == [scene.caption("vi") for scene in drawn]
    assert all(text.startswith("số ") for text in said)


# --- folders ---


def test_groups_are_never_divided(folder):
    found = captioned_folder.read(folder, "en", None)
    assert sum(len(part.names) for part in found.values()) == 64
    for one, other in itertools.combinations(found.values(), 2):
        assert not set(one.captions) & set(other.captions)
        assert not set(map(captioned_folder.stem, one.names)) & set(
            map(captioned_folder.stem, other.names)
        )
    assert len(captioned_folder.read_table(folder / "captions.tsv", "vi")) == 32  # none is empty


def test_pictures_to_learn_from_are_moved_and_mirrored():
    pictures = np.full((200, 20, 20, 3), 255, np.uint8)
    pictures[:, 8:12, 2:6] = np.arange(3)
    found = albums.moved(pictures, np.random.default_rng(0))
    assert found.shape == pictures.shape
    corners = {tuple(np.argwhere(p[..., 0] == 0).min(0)) for p in found if (p == 0).any()}
    assert len({top for top, _ in corners}) > 5
    assert {
        side for side in ("left", "right") for _, left in corners if (left < 9) == (side == "left")
    } == {"left", "right"}
    assert set(np.unique(found)) == {0, 1, 2, 255}


TABLES = {
    "line 1: expected the columns image and en": "picture\ten\n",
    "line 1: expected the columns image and en; got 'image fr'": "image\tfr\n",
    "line 3: expected 2 cells with tabs between them; got 3": "image\ten\na.png\tA.\nb.png\tB\tC\n",
    "expected captions in the column en; it is empty": "image\ten\na.png\t\n",
}


@pytest.mark.parametrize("message", TABLES)
def test_bad_tables_are_named_with_their_line(message, tmp_path):
    (tmp_path / "captions.tsv").write_text(TABLES[message], "utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        captioned_folder.read(tmp_path, "en", None)


def test_a_folder_too_small_to_be_divided_is_refused(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "captions.tsv").write_text("image\ten\na.png\tAn a.\n", "utf-8")
    with pytest.raises(ValueError, match="expected pictures for"):
        captioned_folder.read(tmp_path, "en", None)


@pytest.mark.skipif(not (DATA / "captions").is_dir(), reason="needs the stamps of RNNJAX_DATA")
@pytest.mark.parametrize(("language", "count"), [("en", 785), ("vi", 750)])
def test_the_stamps_are_those_expected(language, count, monkeypatch):
    monkeypatch.setenv(ROOT, str(DATA))
    captions = captioned_folder.read_table(captioned_folder.stamps() / "captions.tsv", language)
    assert len(captions) == count
    parts = [captioned_folder.part_of(group) for group in captioned_folder.groups(captions)]
    assert 0.06 < parts.count("test") / count < 0.14


# --- features ---


def write_features(path, folder, shape, names=None):
    names = sorted(p.name for p in folder.glob("*.png")) if names is None else names
    generator = np.random.default_rng(0)
    np.savez(path, names=names, features=generator.random((len(names), *shape), np.float32))
    return path


BAD_FEATURES = {
    "expected a file of numpy.savez with names and features": {"names": ["a"]},
    "expected names (n,) and features (n, D) or (n, H, W, C); got (1,) and (2, 3)": {
        "names": ["a"],
        "features": np.ones((2, 3)),
    },
    "expected finite numbers": {"names": ["a"], "features": np.full((1, 3), np.nan)},
}


@pytest.mark.parametrize("message", BAD_FEATURES)
def test_bad_features_are_named(message, tmp_path):
    np.savez(tmp_path / "own.npz", **BAD_FEATURES[message])
    with pytest.raises(ValueError, match=r"own\.npz: " + re.escape(message)):
        captioned_folder.read_features(tmp_path / "own.npz")


def test_what_is_no_archive_and_missing_names_are_named(folder, tmp_path):
    (tmp_path / "own.npz").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"own\.npz: expected a file of numpy\.savez"):
        captioned_folder.read_features(tmp_path / "own.npz")
    path = write_features(tmp_path / "few.npz", folder, (3,), names=["black_bar0.png"])
    with pytest.raises(ValueError, match=r"few\.npz: .*63 of 64 have none, .*\.png the first"):
        captioned_folder.read(folder, "en", path)


# --- the model ---


def jit(function):
    return jax.jit(function, static_argnums=0, compiler_options=FAST_COMPILATION)


initial = jit(captioner.initial_params.__wrapped__)


@jit
def read_all(model, params, batch):
    return captioner.apply(model, params, batch, noise=False)


@jit
def look(model, params, pictures):
    return captioner.apply(model, params, pictures, noise=False, method="encode")


@jit
def read_one(model, params, carry, token, context):
    return captioner.apply(model, params, carry, token, context, method="read_one")


def small(inject, longest=5):
    model = Slots(7, 6, (4, 8), longest, 0.5)
    if inject != "slots":
        model = Captioner(inject, 7, 6, 4, (4, 8), longest, 0.5)
    generator = np.random.default_rng(1)
    pictures = generator.integers(0, 256, (3, 12, 12, 1), np.uint8)
    words = [generator.integers(1, 7, n).astype(np.int32) for n in (4, 2, 1)]
    return model, captioner.Batch(pictures, *captioner.pad(words, longest))


def test_maps_of_features_are_attended_to():
    model, batch = small("attention")
    maps = np.random.default_rng(0).random((3, 2, 2, 5), np.float32)
    params = initial(model, maps, 0)
    logits, weights = read_all(model, params, batch._replace(pictures=maps))
    assert (logits.shape, weights.shape) == ((5, 3, 7), (5, 3, 4))


@pytest.mark.parametrize("inject", INJECTS)
def test_teacher_forcing_is_step_by_step_and_padding_is_not_read(inject):
    model, batch = small(inject)
    params = initial(model, batch.pictures, 0)
    whole, weights = read_all(model, params, batch)
    context, carry = look(model, params, batch.pictures)
    steps = []
    for token in captioner.before(jnp.asarray(batch.words)):
        carry, logits = read_one(model, params, carry, token, context)
        steps.append(logits)
    valid = np.arange(5)[:, None] < batch.lengths
    assert largest_difference(np.stack(steps)[valid], whole[valid]) < TOLERANCE["float32"]
    assert (weights is None) == (inject != "attention")
    if weights is not None:
        assert weights.shape == (5, 3, 9)
        np.testing.assert_allclose(np.asarray(weights).sum(-1)[valid], 1.0, rtol=1e-5)
    others = batch.words.copy()
    others[4:], others[2:, 1], others[1:, 2] = 3, 3, 3
    again, _ = read_all(model, params, batch._replace(words=others))
    read = np.arange(5)[:, None] < batch.lengths
    assert largest_difference(again[read], whole[read]) == 0.0
    seen, _ = read_all(model, params, batch._replace(pictures=batch.pictures[::-1].copy()))
    assert largest_difference(seen[0, 0], whole[0, 0]) > 1e-4  # it is the picture that is told


def test_pictures_are_told_apart_after_learning():
    subwords = words_and_digits(["a b c", "b", "c a"])
    model = Captioner("first", len(subwords), 12, 6, (4, 8), 4, 0.0)
    captions, (_, batch) = ["a b c", "b", "c a"], small("attention")
    batch = describing.batch_of(subwords, 4, batch.pictures, captions)
    optimiser = optax.adam(0.03)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
    def step(params, state):
        gradient = jax.grad(captioner.loss, argnums=1, has_aux=True)(
            model, params, None, batch, None
        )[0]
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params = initial(model, batch.pictures, 0)
    state = optimiser.init(params)
    for _ in range(60):
        params, state = step(params, state)
    with compiled_quickly():
        found = describing.describe(Trained(model, params, subwords), batch.pictures, batch=3)
    assert found == captions


def test_features_are_dropped_in_training_alone():
    model, batch = small("init")
    params = initial(model, batch.pictures, 0)
    loss = jit(captioner.loss)
    keys = [None, None, jax.random.key(0), jax.random.key(1)]
    values = [float(loss(model, params, None, batch, key)[0]) for key in keys]
    assert values[0] == values[1]
    assert len(set(values)) == 3


def test_pictures_are_described_one_by_one_as_side_by_side():
    subwords = words_and_digits(["a b c d e"])
    model, batch = small("attention")
    params = initial(model, batch.pictures, 0)
    trained = Trained(model, params, subwords)
    with compiled_quickly():
        describe = functools.partial(describing.describe, trained, beam=Beam(3), batch=2)
        together = describe(batch.pictures)
        alone = [describe(picture[None])[0] for picture in batch.pictures]
    assert together == alone
    assert describing.looked(trained, batch.pictures[0], "a b")[1].shape == (3, 3, 3)


# --- runs ---


def test_a_run_on_scenes_leaves_its_scores(sheets):
    scores = scores_of(sheets)
    assert set(scores["tests"]) == {"seen pairs", "held-out pairs"}
    for test in scores["tests"].values():
        assert test[albums.TOLD]["exact"] > 0.85
        assert 0 <= test["this model"]["low"] <= test["this model"]["high"] <= 1
        assert test["with_new_words"] == 0.0
    assert scores["tests"]["held-out pairs"]["nearest picture"]["exact"] == 0.0  # none was learnt
    tables = (sheets / "tables.md").read_text("utf-8")
    assert caption_results.table_of_systems(scores["tests"]) in tables
    assert imread(sheets / "captions.png").std() > 0.05
    assert len(list((sheets / "examples").glob("*.png"))) == 6


def test_a_run_on_a_folder_leaves_its_scores(stamps):
    scores = scores_of(stamps)
    (test,) = scores["tests"].values()
    assert test["nearest picture"]["chrF"] > test["most frequent caption"]["chrF"]
    assert test["nearest picture"]["exact"] == 0.0  # no caption of the test was learnt
    assert test["with_new_words"] == 0.0
    (outputs,) = scores["outputs"].values()
    assert all(re.fullmatch(r"A \w+ \w+\.", output["output"]) for output in outputs)
    assert {"output", "nearest_picture", "nearest_known_caption"} <= set(outputs[0])
    assert imread(stamps / "captions.png").std() > 0.05


def test_a_stopped_run_goes_on_to_the_same_scores(sheets, tmp_path, monkeypatch):
    """With the options that it was begun with, whatever is typed then."""
    out, fit = tmp_path / "run", training.fit

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=steps // 2, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_captioning(*TINY, "--out", out)
    run_captioning("--resume", "--quick", "--size", "7", "--out", out)
    found, expected = scores_of(out), scores_of(sheets)
    assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-4)
    assert found["outputs"] == expected["outputs"]


def test_a_picture_is_described_as_it_was_in_the_run(sheets, capsys):
    scores = scores_of(sheets)
    pictures = sorted((sheets / "examples").glob("*.png"))
    run_captioning("--load", sheets, *pictures, "--beam", 1)
    lines = capsys.readouterr().out.splitlines()
    outputs = {
        f"{name.replace(' ', '-')}-{o['place']}": o["output"]
        for name in scores["outputs"]
        for o in scores["outputs"][name]
    }
    assert lines == [f"{path}: {outputs[path.stem]}" for path in pictures]


def test_bad_pictures_are_named_and_the_others_are_described(stamps, tmp_path, capsys):
    Image.new("CMYK", (300, 20), (0, 200, 200, 0)).save(tmp_path / "odd.jpg")
    (tmp_path / "words.png").write_text("no picture")
    files = [tmp_path / "words.png", tmp_path / "odd.jpg", tmp_path / "nowhere.png"]
    run_captioning("--load", stamps, *files, "--beam", 1, code=2)
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{tmp_path / 'odd.jpg'}: ")
    first, second = printed.err.splitlines()
    assert "words.png: expected a picture" in first
    assert "nowhere.png" in second


def test_features_of_another_network_are_learnt_from(folder, tmp_path, capsys):
    path, out = write_features(tmp_path / "own.npz", folder, (5,)), tmp_path / "run"
    options = ["--data", folder, "--features", path, "--inject", "init", "--subwords", "60"]
    run_captioning(*TINY, *options, "--out", out)
    assert not (out / "captions.png").exists()
    capsys.readouterr()
    run_captioning("--load", out, "red_bar0.png", "--features", path, "--beam", 1)
    assert capsys.readouterr().out.startswith("red_bar0.png: ")
    run_captioning("--load", out, "unknown.png", "--features", path, "--beam", 1, code=2)
    assert "unknown.png: expected features" in capsys.readouterr().err
    run_captioning("--load", out, "red_bar0.png", code=2)
    assert "needs --features FILE.npz" in capsys.readouterr().err


# --- mistakes ---


BAD_OPTIONS = {
    "--size: expected a whole number": ["--size", "0"],
    "--dropout: expected a number in [0, 1)": ["--dropout", "1"],
    "--average": ["--average", "1"],
    "--seed": ["--seed", "-1"],
    "--widths": ["--widths", "0"],
    "--language: expected en or vi": ["--language", "fr"],
    "--features: expected --data stamps": ["--features", "own.npz"],
    "--data: captions/captions.tsv is not in": ["--data", "stamps"],
    "--data: digits/mnist10k.npz is not in": ["--data", "digits"],
    "--data: [Errno 2]": ["--data", "nowhere"],
    "--load: expected pictures after the folder": ["--load", "somewhere"],
    "--load: expected a run": ["--load", "nowhere", "a.png"],
    "--out: expected a run": ["--resume", "--out", "nowhere"],
    "--load, --resume": ["--load", "a", "b.png", "--resume"],
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_one_line(name, capsys, monkeypatch):
    monkeypatch.delenv(ROOT, raising=False)
    run_captioning(*BAD_OPTIONS[name], code=2)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}")
    assert error.count("\n") == 1


def test_a_model_of_another_task_is_refused(tmp_path, capsys):
    def loss(params, carry, batch, key):
        return jnp.mean((params["w"][None] - batch) ** 2), (carry, {})

    training.fit(
        loss,
        {"w": jnp.zeros(1)},
        captioner.optimiser(0.1, 0.0, 2),
        training.ArrayBatches(np.ones((4, 1), np.float32), 2),
        steps=1,
        key=jax.random.key(0),
        average=0.9,
        checkpoints=training.Checkpoints(tmp_path / "run", config={"task": "translation"}),
    )
    run_captioning("--load", tmp_path, "a.png", code=2)
    assert "expected a run of captioning" in capsys.readouterr().err


# --- scores ---


def test_copies_and_new_words_are_counted():
    known = ["A red frog.", "A fly."]
    assert caption_scores.copied(known, ["A fly.", "A red fly."]) == 0.5
    assert caption_scores.with_new_words(known, ["A fly!", "A red toad."]) == 0.5
    assert caption_results.nearest_caption(known, "A frog.") == "A red frog."
    assert caption_results.nearest_caption(known, "A fly.") == "A fly."


def test_the_nearest_picture_is_the_nearest():
    pictures = np.zeros((3, 2, 2, 1), np.uint8)
    pictures[1], pictures[2] = 100, 250
    known = albums.Album(pictures, ["dark", "grey", "light"], [""] * 3)
    asked = np.full((2, 2, 2, 1), 180, np.uint8)
    asked[0] = 20
    found = caption_scores.baselines(known, asked)
    assert found["nearest picture"] == ["dark", "light"]
    assert found["most frequent caption"] == ["dark", "dark"]


# --- what was measured ---


PROJECT = Path(__file__).parents[1]
RESULTS = sorted((PROJECT / "examples/results/captioning").glob("*.json"))


def shares(tests, system):
    """Exact captions of a system, as the page writes them."""
    return " | ".join(caption_results.words_of(test[system]) for test in tests.values())


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_page_quotes_the_results(path):
    page, scores = (PROJECT / "docs/captioning.md").read_text("utf-8"), json.loads(path.read_text())
    tests = scores["tests"]
    if "held-out pictures" in tests:
        assert caption_results.table_of_systems(tests) in page
        (outputs,) = scores["outputs"].values()
        assert caption_results.table_of_outputs(outputs) in page
        return
    row = f"{shares(tests, 'this model')} | {scores['training_seconds']:.0f} s |"
    assert row in page
    if path.stem in ("attention", "digits"):
        for system in ("most frequent caption", "nearest picture", albums.TOLD):
            assert f"{system} | {shares(tests, system)} |" in page
