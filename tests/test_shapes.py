"""The five shapes learn what only they can; the questions and answers are as they say."""

import csv
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

import rnnjax
from examples import shapes
from examples.support import puzzles

PUZZLES = [task.puzzle for task in shapes.TASKS]
NAMES = [task.name for task in shapes.TASKS]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("shapes") / "results"
    # optax's Adam raises a float to the power of its int32 count, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        shapes.command(["--quick", "--out", str(out)])
    with (out / "shapes.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), out


def test_the_shapes_learn(result):
    rows, _ = result
    assert [row["shape"] for row in rows] == NAMES
    for row, task in zip(rows, shapes.TASKS, strict=True):
        assert int(row["held_out"]) == len(task.puzzle.questions) // 5
        assert float(row["right"]) >= shapes.QUICK.goal
        assert row["answer"] in {task.puzzle.answer(q) for q in task.puzzle.questions}


@pytest.mark.parametrize("name", ["one to one", "many to one", "many to many, aligned"])
def test_the_controls_stay_at_chance(name):
    (task,) = (task for task in shapes.TASKS if task.name == name)
    with jax.numpy_dtype_promotion("standard"):
        right, _, _ = shapes.learn(task, task.control, shapes.QUICK, seed=0)
    deviation = (task.chance * (1 - task.chance) / (len(task.puzzle.questions) // 5)) ** 0.5
    assert right == pytest.approx(task.chance, abs=4 * deviation)


def test_the_picture_is_a_picture(result):
    _, out = result
    pixels = imread(out / "shapes.png")
    assert min(pixels.shape[:2]) > 1000
    assert pixels.std() > 0.1


def test_signs():
    assert len(puzzles.SIGNS.questions) == 400
    for pair in puzzles.SIGNS.questions:
        assert puzzles.SIGNS.answer(pair) == ("=" if len({n > 0 for n in pair}) == 1 else "≠")


def test_roman():
    values = dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))
    form = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})\.")
    for number in puzzles.ROMAN.questions:
        numeral = puzzles.ROMAN.answer(number)
        worth = [values[letter] for letter in numeral[:-1]]
        signs = [-1 if a < b else 1 for a, b in zip(worth, [*worth[1:], 0], strict=True)]
        assert np.dot(worth, signs) == number
        assert form.fullmatch(numeral)


def test_majority():
    assert len(puzzles.MAJORITY.questions) == 2**3 + 2**5 + 2**7 + 2**9 + 2**11
    for text in puzzles.MAJORITY.questions:
        assert puzzles.MAJORITY.answer(text) == sorted(text[:-1])[len(text) // 2 - 1]  # middle one


def test_new_or_old():
    assert len(puzzles.NEW_OR_OLD.questions) == 4**5 + 4**6 + 4**7
    for text in puzzles.NEW_OR_OLD.questions:
        firsts = {text.index(letter) for letter in set(text)}
        assert puzzles.NEW_OR_OLD.answer(text) == "".join(
            "n" if t in firsts else "o" for t in range(len(text))
        )


def test_reverse():
    assert len(puzzles.REVERSE.questions) == sum(4**n for n in range(2, 7))
    for text in puzzles.REVERSE.questions:
        assert puzzles.REVERSE.answer(text) == re.sub(r"(.)\1+", r"\1", text[:-1])[::-1] + "."


@pytest.mark.parametrize("puzzle", PUZZLES, ids=NAMES)
def test_no_question_is_asked_twice_or_held_out_and_trained_on(puzzle):
    assert len(set(puzzle.questions)) == len(puzzle.questions)
    training, held_out = puzzle.split(3)
    assert sorted([*training, *held_out]) == list(range(len(puzzle.questions)))
    assert len(held_out) == len(puzzle.questions) // 5
    assert set(held_out) != set(puzzle.split(4)[1])


@pytest.mark.parametrize("puzzle", PUZZLES, ids=NAMES)
def test_arrays_hold_the_questions_and_answers(puzzle):
    questions, ys = puzzle.arrays()
    for b in range(0, len(puzzle.questions), 37):
        question, steps = puzzle.questions[b], questions.lengths[b]
        assert not questions.xs[steps:, b].any()
        np.testing.assert_allclose(questions.xs[:steps, b], puzzle.features(question), rtol=1e-6)
        answer = "".join(puzzle.symbols[y] for y in ys[:, b] if y >= 0)
        assert answer == puzzle.answer(question)
        assert (np.diff((ys[:, b] >= 0).astype(int)) <= 0).all()


def test_features_tell_questions_apart():
    for puzzle in PUZZLES:
        features = [puzzle.features(question) for question in puzzle.questions]
        assert len({(len(f), f.tobytes()) for f in features}) == len(puzzle.questions)


def test_chance_is_the_best_guess_of_what_the_control_knows():
    def best_guess(known, wanted):
        counts = Counter(zip(known, wanted, strict=True))
        best = {k: max(n for (other, _), n in counts.items() if other == k) for k in set(known)}
        return sum(best.values()) / len(known)

    _, numerals, majority, tags, reverse = (
        [puzzle.answer(question) for question in puzzle.questions] for puzzle in PUZZLES
    )
    chances = [task.chance for task in shapes.TASKS]
    assert chances[1] == best_guess([text[0] for text in numerals], numerals)
    assert chances[2] == best_guess([text[-1] for text in puzzles.MAJORITY.questions], majority)
    assert chances[4] == best_guess(
        [text[0] for text in puzzles.REVERSE.questions], [text[0] for text in reverse]
    )
    # Without memory a letter always has the same tag; that of the first letter is "n".
    assert chances[3] == np.mean([set(text) == {"n"} for text in tags]) == 0
    # At the mirror image a line through 0 answers otherwise, the puzzle does not.
    for a, b in puzzles.SIGNS.questions:
        assert puzzles.SIGNS.answer((a, b)) == puzzles.SIGNS.answer((-a, -b))


@pytest.fixture
def network():
    """An untrained network and three random questions."""
    cell = rnnjax.GRU(5)
    params = shapes.init(shapes.aligned, cell, jax.random.key(0), 4, 3)
    xs = jax.random.normal(jax.random.key(1), (6, 3, 4))
    return cell, params, puzzles.Questions(xs, jnp.array([6, 4, 2]))


@pytest.mark.parametrize("shape", [shapes.one_to_many, shapes.encoder_decoder])
def test_spoken_and_dictated_the_same_answer_has_the_same_states(shape, network):
    cell, params, questions = network
    spoken = shape(cell, params, questions, lambda *args: shapes.speak(*args, steps=7))
    ys = jnp.argmax(shapes.logits_of(params, spoken), axis=-1)
    dictated = shape(cell, params, questions, lambda *args: shapes.dictate(*args, ys=ys))
    np.testing.assert_allclose(spoken, dictated, rtol=1e-5, atol=1e-6)


def test_what_is_forgotten_does_not_matter(network):
    cell, params, questions = network
    earlier = jnp.arange(6)[:, None] < questions.lengths[None] - 1
    other = questions._replace(xs=jnp.where(earlier[..., None], 9.0, questions.xs))
    for shape in (shapes.many_to_one, shapes.forgetting(shapes.many_to_one)):
        (h,), (h_other,) = (shape(cell, params, q, None) for q in (questions, other))
        same = np.isclose(h, h_other, rtol=1e-5, atol=1e-6).all()
        assert same == (shape is not shapes.many_to_one)


def test_many_to_one_reads_each_question_to_its_end(network):
    cell, params, questions = network
    (h,) = shapes.many_to_one(cell, params, questions, None)
    hs = shapes.aligned(cell, params, questions, None)
    for b, length in enumerate(questions.lengths):
        np.testing.assert_allclose(h[b], hs[length - 1, b], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "-1"], "--seed: expected a number from 0 to 2**32 - 1; got -1"),
        (["--out", "{}/notes.txt"], "--out: expected a folder"),
        (["--out", "{}/notes.txt/results"], "--out: "),
        (["--out", "{}"], "also holds 'notes.txt'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(options, words, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as left:
        shapes.command([option.format(tmp_path) for option in options])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert words in error
    assert error.count("\n") == 1


def test_it_exits_with_status_1_when_a_shape_does_not_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "learn", lambda *_: (0.98, "ab", "ba"))
    with pytest.raises(SystemExit, match=r"Not learnt: one to one, .*Expected 99% right"):
        shapes.command(["--out", str(tmp_path / "out")])
