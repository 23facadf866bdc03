"""The language model example: it learns, it is scored honestly, it writes what it has learnt."""

import csv
import dataclasses
import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import language_model as lm
from examples.support import datasets, texts
from examples.support.corpus import Document, Vocabulary, pack
from examples.support.folders import set_aside
from rnnjax import training
from tests.data import DATA

VERSE = "she sells sea shells by the sea shore; the shells she sells are sea shells, i am sure.\n"
SMALL = ["--quick", "--hidden", "24", "--steps", "90", "--batch", "4", "--chunk", "24"]


pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def verses(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verses.txt"
    path.write_text(VERSE * 150)
    return path


@pytest.fixture(scope="module")
def trained(verses, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    with jax.numpy_dtype_promotion("standard"):
        lm.command([*SMALL, "--data", str(verses), "--out", str(out), "--length", "5"])
    return out


# Compiled once a shape: op by op these tests would spend their time on many tiny compilations.
loss = functools.partial(jax.jit, static_argnums=0)(lm.loss)


@functools.partial(jax.jit, static_argnums=0)
def read_one(model, params, *inputs):
    return lm.apply(model, params, *inputs, method="read_one")


@functools.partial(jax.jit, static_argnums=0)
def read(model, params, *inputs):
    return lm.apply(model, params, *inputs, noise=False)


def generate(out, capsys, *argv):
    capsys.readouterr()
    lm.command(["--generate", "--out", str(out), "--length", "50", *argv])
    return capsys.readouterr().out


def small_model(cell="lstm", layers=1, size=7, **options):
    model = lm.build(lm.Options(cell=cell, hidden=6, layers=layers, **options), size)
    return model, lm.initial_params(model, 3)


def small_chunk(time, batch, size=7):
    inputs, targets = np.random.default_rng(5).integers(0, size, (2, time, batch), np.int32)
    return training.Chunk(inputs, targets, inputs == 0)


def close(a, b, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), a, b)


def text_of(train, test):
    vocabulary = Vocabulary.of([Document("", train + test)])
    train, test = (texts.Part(*pack([Document("", part)], vocabulary)) for part in (train, test))
    return texts.Text("made up", "character", vocabulary, train, None, test)


# --- runs ---


def test_a_run_learns_and_leaves_its_scores(trained, verses):
    scores = json.loads((trained / lm.SCORES).read_text())
    assert scores["nats"] < scores["ngram_nats"]["1"]
    assert scores["bits_per_character"] == pytest.approx(scores["nats"] / np.log(2))
    assert scores["steps"] == 90
    assert scores["text"] == str(verses)
    assert (trained / lm.PICTURE).read_bytes().startswith(b"\x89PNG")
    with (trained / lm.CURVE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["training_nats"]) < 0.6 * float(rows[0]["training_nats"])
    assert int(rows[-1]["symbols"]) == 90 * 4 * 24
    validated = [row for row in rows if row["validation_nats"]]
    assert len(validated) == lm.POINTS + 1  # every 11 steps, and the last
    assert validated[-1] is rows[-1]
    assert float(rows[-1]["validation_nats"]) == pytest.approx(scores["nats"])


def test_a_stopped_run_goes_on_to_the_same_scores(trained, verses, tmp_path, monkeypatch):
    """With the options that it was begun with, whatever is typed then."""
    out = tmp_path / "run"
    fit = training.fit

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=50, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            lm.command([*SMALL, "--data", str(verses), "--out", str(out)])
    lm.command(["--resume", "--out", str(out), "--hidden", "7"])
    expected, found = (json.loads((run / lm.SCORES).read_text()) for run in (trained, out))
    assert found["nats"] == pytest.approx(expected["nats"], rel=1e-4)
    assert found["steps"] == expected["steps"]


def test_words_are_learnt_and_written(verses, tmp_path, capsys):
    out = tmp_path / "run"
    small = [*SMALL, "--embedding", "16", "--tied", "--dropout", "0.1", "--average", "0.9"]
    lm.command([*small, "--data", str(verses), "--unit", "word", "--out", str(out)])
    scores = json.loads((out / lm.SCORES).read_text())
    assert scores["perplexity_per_word"] == pytest.approx(np.exp(scores["nats"]))
    assert scores["nats"] < scores["ngram_nats"]["1"]
    written = generate(out, capsys, "--prompt", "she sells")
    assert written.startswith("she sells ")
    assert set(written.split()) <= {*VERSE.split(), "<unk>"}


def test_the_same_seed_writes_the_same_text(trained, capsys):
    first = generate(trained, capsys, "--prompt", "she ", "--seed", "1")
    assert first.startswith("she ")
    assert first == generate(trained, capsys, "--prompt", "she ", "--seed", "1")
    assert first != generate(
        trained, capsys, "--prompt", "she ", "--seed", "2", "--temperature", "3"
    )


def test_an_earlier_run_is_kept_beside(tmp_path):
    for content in ("oldest", "old", "new"):
        set_aside(tmp_path / "run", ["result"])
        (tmp_path / "run" / "result").write_text(content)
    assert sorted(os.listdir(tmp_path)) == ["run", "run.before"]
    assert (tmp_path / "run.before" / "result").read_text() == "old"
    (tmp_path / "run.before" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"run.before also holds 'thesis.tex'"):
        set_aside(tmp_path / "run", ["result"])


@pytest.mark.parametrize(
    ("argv", "hidden"),
    [
        ("", 256),
        ("--data=viwiki", 512),
        ("--data viwiki --hidden 3", 3),
        ("--prompt viwiki", 256),
        ("--data wikitext2 --quick", 96),
    ],
)
def test_a_name_brings_other_defaults(argv, hidden, monkeypatch):
    seen = []
    monkeypatch.setattr(lm, "main", seen.append)
    lm.command(argv.split())
    assert seen[0].hidden == hidden


def test_minutes_become_steps(verses):
    options = lm.Options(data=str(verses), hidden=6, batch=3, chunk=5, minutes=0.01)
    task = lm.prepare(lm.read_text(options), options)
    few = lm.steps_in_time(task, options)
    many = lm.steps_in_time(task, dataclasses.replace(options, minutes=10.0))
    assert 1 <= few < many


# --- the model ---


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), *((cell, 2) for cell in lm.CELLS)])
def test_steps_are_the_scan(cell, layers):
    model, params = small_model(cell, layers, tied=layers == 1)
    chunk = small_chunk(11, 3)
    assert chunk.resets[1:].any()
    carry = first = lm.initial_carry(model, params, 3)
    logits = []
    for token, reset in zip(chunk.inputs, chunk.resets, strict=True):
        carry, step = read_one(model, params, carry, token, reset)
        logits.append(step)
    whole = read(model, params, first, chunk.inputs, chunk.resets)
    close((carry, np.stack(logits)), whole)


def test_two_chunks_with_the_carry_are_one_long_chunk():
    model, params = small_model()
    chunk = small_chunk(14, 3)
    first, second = (jax.tree.map(lambda a, s=s: a[s], chunk) for s in (np.s_[:7], np.s_[7:]))
    start = lm.initial_carry(model, params, 3)
    whole, (last, _) = loss(model, params, start, chunk, None)
    early, (carry, _) = loss(model, params, start, first, None)
    late, (carry, _) = loss(model, params, carry, second, None)
    close(whole, (early + late) / 2)
    close(carry, last)
    assert abs(loss(model, params, start, second, None)[0] - late) > 1e-4


def test_targets_that_are_not_scored_do_not_count():
    model, params = small_model()
    chunk = small_chunk(7, 3)
    scored = np.arange(7)[:, None] < [7, 2, 0]
    start = lm.initial_carry(model, params, 3)
    value, (_, metrics) = loss(
        model, params, start, chunk._replace(targets=np.where(scored, chunk.targets, -1)), None
    )
    _, logits = read(model, params, start, chunk.inputs, chunk.resets)
    nats = -np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), chunk.targets[..., None], axis=-1
    )[..., 0]
    assert int(metrics["tokens"]) == 9
    assert float(value) == pytest.approx(nats[scored].mean(), rel=1e-5)


def test_dropout_is_locked_along_a_chunk_and_absent_without_a_key():
    model, params = small_model(dropout=0.5, embedding_dropout=0.5)
    for layer in ("drop_input", "drop_output"):
        ones = jnp.ones((5, 2, 40))

        def drop(module, layer=layer, ones=ones):
            return getattr(module, layer)(ones, deterministic=False)

        out = np.asarray(model.apply(params, method=drop, rngs={"dropout": jax.random.key(0)}))
        assert set(np.unique(out)) == {0.0, 2.0}
        np.testing.assert_array_equal(out, np.broadcast_to(out[:1], out.shape))
        assert (out[0, 0] != out[0, 1]).any()
    chunk, carry = small_chunk(5, 3), lm.initial_carry(model, params, 3)
    quiet = [loss(model, params, carry, chunk, None)[0] for _ in range(2)]
    noisy = [loss(model, params, carry, chunk, jax.random.key(k))[0] for k in range(2)]
    assert quiet[0] == quiet[1]
    assert noisy[0] != noisy[1]


def test_a_tied_head_is_the_embedding():
    model, params = small_model(tied=True)
    table = params["params"]["embed"]["embedding"]
    assert params["params"]["head"]["kernel"].shape == (6, 64)
    _, logits = read(model, params, None, *small_chunk(2, 3)[::2])
    assert logits.shape == (2, 3, len(table))


def test_the_learning_rate_warms_up_and_ends_at_nothing():
    optimiser = lm.optimiser(lm.Options(weight_decay=0.0), 50)
    params = {"w": jnp.ones(3)}
    state, sizes = optimiser.init(params), []
    for _ in range(51):
        updates, state = optimiser.update({"w": jnp.full(3, 0.1)}, state, params)
        sizes.append(float(abs(updates["w"]).max()))
    assert sizes[0] == 0
    assert max(sizes) == pytest.approx(6e-3, rel=1e-2)
    assert sizes[-1] < 1e-5


# --- scores ---


@pytest.mark.parametrize("length", [1, 40, 2100])
def test_scoring_sees_every_symbol_once(length):
    part = text_of("abc", ("abcab" * length)[:length]).scored
    rows = texts.rows(part, span=16)
    assert len(rows.inputs) % 16 == 0
    scored = [target[target >= 0] for target in rows.targets.T]
    assert np.concatenate(scored).tolist() == part.tokens[1:].tolist()


def test_rows_together_score_as_the_text_does_in_one_row():
    text = text_of("abcdef", "".join(np.random.default_rng(0).choice(list("abcdef"), 2500)))
    model, params = small_model(size=len(text.vocabulary))
    rows = texts.rows(text.scored, lm.SPAN)
    assert rows.inputs.shape[1] == 2
    tokens = text.scored.tokens[:, None]
    whole = training.Chunk(tokens[:-1], tokens[1:], tokens[:-1] == 0)
    expected, _ = loss(model, params, lm.initial_carry(model, params, 1), whole, None)
    found = lm.nats_of(model, functools.partial(lm.loss, model), rows, params)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_windows_begin_without_memory():
    windows = texts.windows(text_of("abc", "abcab" * 20).scored, 16)
    assert windows.inputs.shape == (16, 6)
    assert windows.resets[0].all()
    assert not windows.resets[1:].any()
    np.testing.assert_array_equal(windows.inputs[1:], windows.targets[:-1])


def test_ngrams_are_scored_on_the_same_symbols():
    text = text_of("abcabc" * 30, "abc" * 20)
    order_1 = texts.ngram_nats(text, (1,))[1]
    counts = np.bincount(text.train.tokens, minlength=len(text.vocabulary))
    share = counts[text.scored.tokens[1:]] / len(text.train.tokens)
    assert order_1 == pytest.approx(-np.log(share).mean(), abs=0.05)


def test_the_verdict_is_plain():
    assert texts.verdict(2.0, "3-gram", 2.5) == "beats the 3-gram (2.500) by 0.500"
    missed = texts.verdict(2.0, "5-gram", 1.5)
    assert missed == "does not reach the 5-gram (1.500): 0.500 more"
    ngrams = {1: 4.0, 3: 3.0, 5: 2.0, 6: 1.5, 7: 1.7}
    assert list(texts.baselines("character", ngrams)) == ["unigram", "3-gram", "5-gram", "6-gram"]
    assert texts.baselines("word", {1: 2.0, 2: 1.0, 4: 1.5})["2-gram"] == pytest.approx(np.e)


@pytest.mark.parametrize(
    ("name", "unit", "sizes"),
    [
        ("tinyshakespeare", "character", (1_003_855, None, 111_541)),
        ("tinyshakespeare-tuning", "character", (953_662, 50_194, None)),
        ("wikitext2", "word", (217_646, None, 245_569)),
    ],
)
def test_what_is_scored_was_not_learnt_or_watched(name, unit, sizes, monkeypatch):
    monkeypatch.setenv(datasets.ROOT, str(DATA))
    if not (DATA / "text").is_dir():
        pytest.skip(f"needs the texts: set {datasets.ROOT} to a folder that holds them")
    text = texts.read(name, unit, 10)
    parts = (text.train, text.validation, text.test)
    assert tuple(part and len(part.tokens) for part in parts) == sizes


# --- mistakes ---


@pytest.fixture
def files(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    (tmp_path / "broken" / lm.RUN / "00000001").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--steps 3 --minutes 1", ["--steps", "--minutes", "one of the two"]),
        ("--generate --resume", ["--generate", "--resume", "one of the two"]),
        ("--steps 0", ["--steps", "from 1 up", "got 0"]),
        ("--hidden 0", ["--hidden", "got 0"]),
        ("--layers -1", ["--layers", "got -1"]),
        ("--batch 0", ["--batch"]),
        ("--chunk 0", ["--chunk"]),
        ("--length 0", ["--length"]),
        ("--minutes 0", ["--minutes", "above 0"]),
        ("--temperature nan", ["--temperature", "got nan"]),
        ("--learning-rate inf", ["--learning-rate", "got inf"]),
        ("--dropout 1", ["--dropout", "[0, 1)"]),
        ("--data {}/nothing.txt", ["--data", "nothing.txt"]),
        ("--data {}", ["--data", "folder"]),
        ("--data {}/empty.txt", ["--data", "empty"]),
        ("--data {}/short.txt", ["--data", "Give a longer text"]),
        ("--data {}/binary.txt", ["--data", "UTF-8"]),
        ("--data wikitext2", ["--data", "by the word", "Add --unit word"]),
        ("--data viwiki --unit word", ["--data", "Add --unit character"]),
        ("--data viwiki", ["--data", "text/viwiki-sample.txt", "RNNJAX_DATA"]),
        ("--characters 5", ["--characters", "raise it"]),
        ("--data VERSES --prompt é", ["--prompt", "'é'", "position 0"]),
        ("--data VERSES --out {}/taken", ["--out", "thesis.tex", "another folder"]),
        ("--data VERSES --out {}/short.txt", ["--out", "is a file"]),
        ("--generate --out {}/none", ["--out", "Train one first: python -m", "none"]),
        ("--resume --out {}/none", ["--out", "Train one first: python -m", "none"]),
        ("--generate --out TRAINED --prompt é", ["--prompt", "'é'"]),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    argv, words, files, verses, trained, capsys, monkeypatch
):
    monkeypatch.delenv(datasets.ROOT, raising=False)
    places = {"VERSES": str(verses), "TRAINED": str(trained)}
    argv = argv if "--out" in argv else f"{argv} --out {{}}/run"
    words_of_argv = [places.get(word, word.format(files)) for word in argv.split()]
    with pytest.raises(SystemExit) as leaving:
        lm.command(words_of_argv)
    assert leaving.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --")
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_a_damaged_run_is_one_line_and_status_2(trained, tmp_path, capsys):
    out = shutil.copytree(trained, tmp_path / "run")
    for file in out.rglob("state.json"):
        file.write_text("{")
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(SystemExit):
        lm.command(["--generate", "--out", str(out)])
    assert "state.json" in capsys.readouterr().err


def test_hidden_units_and_recurrent_kernels_are_dropped_in_training_alone():
    options = lm.Options(embedding=4, hidden=5, layers=2, recurrent_dropout=0.5, drop_connect=0.5)
    model = lm.build(options, 7)
    plain = lm.build(dataclasses.replace(options, recurrent_dropout=0.0, drop_connect=0.0), 7)
    params, carry = lm.initial_params(model, 0), None
    tokens = jnp.arange(12).reshape(6, 2) % 7
    chunk = training.Chunk(tokens, tokens, jnp.zeros((6, 2), bool))
    evaluated, _ = loss(model, params, carry, chunk, None)
    assert evaluated == loss(plain, params, carry, chunk, None)[0]
    first, again, other = (
        loss(model, params, carry, chunk, jax.random.key(k))[0] for k in (1, 1, 2)
    )
    assert first == again
    assert len({float(value) for value in (evaluated, first, other)}) == 3
