"""The language model example: it learns, it is scored honestly, it writes what it has learnt."""

import csv
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from examples import language_model as lm
from examples.support import characters
from examples.support.corpus import BOUNDARY, Streams, Vocabulary
from examples.support.folders import replacing

VERSE = "she sells sea shells by the sea shore; the shells she sells are sea shells, i am sure.\n"
SMALL = ["--quick", "--hidden", "24", "--steps", "90", "--batch", "4", "--chunk", "24"]


@pytest.fixture(scope="module")
def verses(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verses.txt"
    path.write_text(VERSE * 150)
    return path


@pytest.fixture(scope="module")
def trained(verses, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    with optax_promotion():
        lm.command([*SMALL, "--data", str(verses), "--out", str(out), "--length", "5"])
    return out


def optax_promotion():
    """AdamW's bias correction raises a float to an integer power."""
    return jax.numpy_dtype_promotion("standard")


# Compiled once a shape: op by op these tests would spend their time on many tiny compilations.
losses = functools.partial(jax.jit, static_argnums=0)(lm.losses)
apply = functools.partial(jax.jit, static_argnums=0, static_argnames="method")(lm.apply)


def generate(out, capsys, *argv):
    lm.command(["--generate", "--out", str(out), "--length", "50", *argv])
    return capsys.readouterr().out


def small_model(cell="lstm", layers=1, vocabulary_size=7):
    options = lm.Options(cell=cell, hidden=6, layers=layers)
    model = lm.build(options, vocabulary_size)
    return model, lm.initial_params(model, 3)


def small_rows(time, batch, vocabulary_size=7):
    draw = np.random.default_rng(5)
    inputs, targets = draw.integers(0, vocabulary_size, (2, time, batch), np.int32)
    return Streams(inputs, targets, inputs == 0)


def test_a_run_learns_and_leaves_its_scores(trained, verses):
    config = json.loads((trained / lm.CONFIG).read_text())
    assert config["bits_per_character"] < config["ngram_bits"]["1"]
    assert config["steps"] == 90
    assert config["text"] == str(verses)
    assert (trained / lm.PICTURE).read_bytes().startswith(b"\x89PNG")
    with (trained / lm.CURVE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90
    assert float(rows[-1]["training_bits"]) < 0.6 * float(rows[0]["training_bits"])
    assert int(rows[-1]["characters"]) == 90 * 4 * 24
    validated = [row for row in rows if row["validation_bits"]]
    assert len(validated) == lm.VALIDATION_POINTS
    assert validated[-1] is rows[-1]
    assert float(rows[-1]["validation_bits"]) == pytest.approx(config["bits_per_character"])


def test_the_same_seed_writes_the_same_text(trained, capsys):
    first = generate(trained, capsys, "--prompt", "she ", "--seed", "1")
    assert first.startswith("she ")
    assert first == generate(trained, capsys, "--prompt", "she ", "--seed", "1")
    assert first != generate(
        trained, capsys, "--prompt", "she ", "--seed", "2", "--temperature", "3"
    )


@pytest.mark.parametrize("length", [1, 15, 16, 17])
def test_a_sample_has_the_length_asked_for(trained, length):
    options = lm.Options(out=trained, length=length, prompt="sea")
    model, params, vocabulary = lm.load(options)
    assert len("".join(lm.write(model, params, vocabulary, options))) == length


def test_a_sample_is_read_as_text_is(trained):
    model, params, vocabulary = lm.load(lm.Options(out=trained))
    prompt = vocabulary.encode(BOUNDARY + "the sea")
    keys = jax.random.split(jax.random.key(0), 20)
    (carry, logits), tokens = lm.sample(
        model, params, lm.read_prompt(model, params, prompt), keys, 1.5
    )
    forced = lm.read_prompt(model, params, np.concatenate([prompt, np.asarray(tokens)]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), (carry, logits), forced)


def test_almost_no_temperature_is_the_likeliest_symbol(trained):
    model, params, vocabulary = lm.load(lm.Options(out=trained))
    state = lm.read_prompt(model, params, vocabulary.encode(BOUNDARY + "the sea"))
    _, tokens = lm.sample(model, params, state, jax.random.split(jax.random.key(0), 20), 1e-4)
    assert int(tokens[0]) == int(np.argmax(state[1]))


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), *((cell, 2) for cell in lm.CELLS)])
def test_steps_are_the_scan(cell, layers):
    model, params = small_model(cell, layers)
    rows = small_rows(11, 3)
    assert rows.resets[1:].any()
    carry = first = lm.initial_carry(model, params, 3)
    logits = []
    for token, reset in zip(rows.inputs, rows.resets, strict=True):
        carry, step = apply(model, params, carry, token, reset, method="read_one")
        logits.append(step)
    whole = apply(model, params, first, rows.inputs, rows.resets)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), (carry, np.stack(logits)), whole
    )


def test_two_chunks_with_the_carry_are_one_long_chunk():
    model, params = small_model()
    rows = small_rows(14, 3)
    first, second = (jax.tree.map(lambda a, s=s: a[s], rows) for s in (np.s_[:6], np.s_[6:]))
    start = lm.initial_carry(model, params, 3)
    whole, last = losses(model, params, start, rows)
    early, carry = losses(model, params, start, first)
    late, carry = losses(model, params, carry, second)
    np.testing.assert_allclose(np.concatenate([early, late]), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, last)
    assert np.abs(losses(model, params, start, second)[0] - late)[0].max() > 1e-3


def test_training_reads_chunk_after_chunk_and_passes_the_carry_on():
    model, _ = small_model()
    rows = small_rows(11, 3)  # two chunks of five; one symbol is left over
    state = lm.initial_state(model, 3, seed=3)
    for start in (0, 5, 0):
        part = jax.tree.map(lambda a, s=start: a[s : s + 5], rows)
        nats, carry = losses(model, state.params, state.carry, part)
        with optax_promotion():
            state, loss = lm.train_step(model, state, jax.device_put(rows), 5, 0.1, 3)
        np.testing.assert_allclose(loss, nats.mean(), atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.carry, carry)


def test_the_learning_rate_warms_up_and_ends_at_nothing():
    rates = [float(lm.SCHEDULE(1000 * step / 50)) for step in range(51)]
    assert rates[0] == 0
    assert max(rates) == rates[1] == 1
    assert rates[-1] < 1e-6


def text_of(train, validation):
    documents = [("a", train), ("b", validation)]
    vocabulary = Vocabulary.of(characters.Document(*d) for d in documents)
    packs = [characters.corpus.pack([characters.Document(*d)], vocabulary) for d in documents]
    return characters.Text("made up", vocabulary, *packs[0], *packs[1])


@pytest.mark.parametrize("length", [1, 40, 2100])
def test_validation_scores_every_symbol_once(length):
    text = text_of("abc", ("abcab" * length)[:length])
    rows = characters.validation_rows(text, span=16)
    assert len(rows.inputs) % 16 == 0
    scored = [target[target >= 0] for target in rows.targets.T]
    assert np.concatenate(scored).tolist() == text.validation[1:].tolist()


def test_validation_rows_together_score_as_the_text_does_in_one_row():
    text = text_of("abcdef", "".join(np.random.default_rng(0).choice(list("abcdef"), 2500)))
    model, params = small_model(vocabulary_size=len(text.vocabulary))
    rows = characters.validation_rows(text, lm.SPAN)
    assert rows.inputs.shape[1] == 2
    tokens = text.validation[:, None]
    carry = lm.initial_carry(model, params, 1)
    whole = Streams(tokens[:-1], tokens[1:], tokens[:-1] == 0)
    nats, _ = losses(model, params, carry, whole)
    expected = float(nats.mean()) / np.log(2)
    assert lm.bits_of(model, params, rows) == pytest.approx(expected, rel=1e-5)


def test_ngrams_are_scored_on_the_same_symbols():
    text = text_of("abcabc" * 30, "abc" * 20)
    order_1 = characters.ngram_bits(text, (1,))[1]
    counts = np.bincount(text.train, minlength=len(text.vocabulary))
    share = counts[text.validation[1:]] / len(text.train)
    assert order_1 == pytest.approx(-np.log2(share).mean(), abs=0.05)


def test_the_verdict_is_plain():
    assert characters.verdict(2.0, "3-gram", 2.5) == "beats the 3-gram (2.500) by 0.500"
    missed = characters.verdict(2.0, "5-gram", 1.5)
    assert missed == "does not reach the 5-gram (1.500): 0.500 more"
    ngrams = {1: 4.0, 3: 3.0, 5: 2.0, 6: 1.5, 7: 1.7}
    assert list(characters.baselines(ngrams)) == ["unigram", "3-gram", "5-gram", "6-gram"]


def test_minutes_become_steps():
    model, _ = small_model()
    rows = jax.device_put(small_rows(11, 3))
    options = lm.Options(batch=3, chunk=5, minutes=0.01)
    with optax_promotion():
        few = lm.steps_in_time(model, rows, options)
        many = lm.steps_in_time(model, rows, dataclasses.replace(options, minutes=10.0))
    assert 1 <= few < many


@pytest.fixture
def files(tmp_path, verses):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / lm.CONFIG).write_text("{}")
    return tmp_path, verses


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--steps 3 --minutes 1", ["--steps", "--minutes", "one of the two"]),
        ("--steps 0", ["--steps", "from 1 up", "got 0"]),
        ("--hidden 0", ["--hidden", "got 0"]),
        ("--layers -1", ["--layers", "got -1"]),
        ("--batch 0", ["--batch"]),
        ("--chunk 0", ["--chunk"]),
        ("--length 0", ["--length"]),
        ("--minutes 0", ["--minutes", "above 0"]),
        ("--temperature nan", ["--temperature", "got nan"]),
        ("--learning-rate inf", ["--learning-rate", "got inf"]),
        ("--data {}/nothing.txt", ["--data", "nothing.txt"]),
        ("--data {}", ["--data", "folder"]),
        ("--data {}/empty.txt", ["--data", "empty"]),
        ("--data {}/short.txt", ["--data", "Give a longer text"]),
        ("--data {}/binary.txt", ["--data", "UTF-8"]),
        ("--characters 5", ["--characters", "raise it"]),
        ("--data VERSES --prompt é", ["--prompt", "'é'", "position 0"]),
        ("--data VERSES --out {}/taken", ["--out", "thesis.tex", "another folder"]),
        ("--data VERSES --out {}/short.txt", ["--out", "is a file"]),
        ("--generate --out {}/none", ["--out", "Train one first: python -m", "none"]),
        ("--generate --out {}/broken", ["--out", "cannot be read", "Train one first"]),
        ("--generate --out TRAINED --prompt é", ["--prompt", "'é'"]),
    ],
)
def test_mistakes_are_one_line_and_status_2(argv, words, files, trained, capsys):
    folder, verses = files
    places = {"VERSES": str(verses), "TRAINED": str(trained)}
    words_of_argv = [places.get(word, word.format(folder)) for word in argv.split()]
    with pytest.raises(SystemExit) as leaving:
        lm.command(words_of_argv)
    assert leaving.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --")
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def write_run(folder, content):
    with replacing(folder) as fresh:
        (fresh / "result").write_text(content)
        if content == "half":
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_the_one_before(tmp_path):
    folder = tmp_path / "run"
    write_run(folder, "old")
    write_run(folder, "new")
    with pytest.raises(KeyboardInterrupt):
        write_run(folder, "half")
    assert (folder / "result").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
