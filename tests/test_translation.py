"""The translation example: it learns, it is compared fairly, it says what it cannot translate."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from examples import translation
from examples.support import (
    datasets,
    pairs,
    subwords,
    translating,
    translation_baselines,
    translation_results,
    translation_scores,
    translator,
)
from examples.support.numerals import spell
from examples.support.pairs import Corpus, Pair, Question
from examples.support.translating import Limits
from rnnjax import training
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, largest_difference
from rnnjax.training import Padded
from tests.compilation import compiled_quickly
from tests.data import DATA

pytestmark = pytest.mark.usefixtures("optax_promotion")

TINY = ["--quick", "--beam", "1", "--hidden", "16", "--embedding", "8"]
TINY += ["--subwords", "60", "--average", "0.8", "--epochs", "4"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Numbers as pairs of a file, some with two translations."""
    sources = ["a number, that is {}" if n % 3 else "no. {}" for n in range(300)]
    lines = [f"{s.format(n)}\t{spell(n).capitalize()}.\n" for n, s in enumerate(sources)]
    lines += [f"{sources[n].format(n)}\tSố {spell(n)}.\n" for n in range(0, 300, 7)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(lines), "utf-8")
    return path


def run_translation(*argv):
    with compiled_quickly():
        translation.command([str(word) for word in argv])


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "numbers"
    run_translation("--quick", "--beam", "1", "--save", out)
    return out


@pytest.fixture(scope="module")
def sentences(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "sentences"
    run_translation(*TINY, "--data", table, "--out", out)
    return out


def scores_of(out):
    return json.loads((out / "scores.json").read_text("utf-8"))


# --- runs ---


def test_numbers_are_learnt(numbers):
    scores = scores_of(numbers)
    test = scores["test"]
    assert test["this model"]["exact"] > 0.9
    assert test["this model"]["numbers_by_digits"]["6"] > 850
    assert sum(test["this model"]["numbers_by_digits"].values()) == 1000
    assert test["seven digits"]["exact"] == 0.0  # its triệu was never seen
    assert test["seven digits"]["numbers_by_digits"] == {"7": 1000}
    assert scores["validation"]["exact"] > 0.9
    assert (numbers / "translation.png").read_bytes().startswith(b"\x89PNG")


def test_sentences_are_scored_beside_the_baselines(sentences):
    scores = scores_of(sentences)
    test = scores["test"]
    names = ["this model", "this model, greedy", "copy", "word for word", "nearest source"]
    for name in names:
        for metric in ("BLEU", "chrF"):
            found = test[name][metric]
            assert found["low"] <= found["high"]
            assert ("p" in found) == (name != "this model")
    assert test["human"]["sentences"] == 43
    assert scores["compiled_shapes"] == 2  # one a bucket
    assert "nrefs:var" in test["signatures"]["BLEU"]
    assert len(scores["outputs"]) == 10
    tables = (sentences / "tables.md").read_text("utf-8")
    assert translation_results.table_of_systems(test) in tables
    assert f"| {scores['outputs'][9]['source']} |" in tables.splitlines()[-1]


def test_a_stopped_run_goes_on_to_the_same_scores(sentences, table, tmp_path, monkeypatch):
    """With the options that it was begun with, whatever is typed then."""
    out = tmp_path / "run"
    fit = training.fit

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=options["validation"].every, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_translation(*TINY, "--data", table, "--out", out)
    run_translation("--resume", "--out", out, "--beam", "1", "--hidden", "32")
    expected, found = scores_of(sentences), scores_of(out)
    assert found["validation"]["loss"] == pytest.approx(expected["validation"]["loss"], rel=1e-4)
    assert found["best_step"] == expected["best_step"]
    assert found["options"] == expected["options"]


def test_texts_are_translated(numbers, capsys):
    capsys.readouterr()
    run_translation("--load", numbers, "123456", "654321", "--beam", "2")
    written = capsys.readouterr().out.splitlines()
    assert len(written) == 2
    assert written[0].startswith("một trăm")
    assert written[1].startswith("sáu trăm")


def test_the_lines_of_a_file_that_are_good_are_translated(numbers, tmp_path, capsys):
    path = tmp_path / "lines.txt"
    path.write_bytes("123456\n12x4\n\n1\xff\n1234567\r\n654321\n".encode("latin-1"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        run_translation("--load", numbers, "--file", path)
    captured = capsys.readouterr()
    lines, errors = captured.out.splitlines(), captured.err.splitlines()
    assert leaving.value.code == 2
    assert [bool(line) for line in lines] == [True, False, False, False, False, True]
    assert lines[5].startswith("sáu trăm")
    expected = [
        r"line 2: '.*x.*' .*never seen in training",
        r"line 3: it is empty",
        r"line 4: expected UTF-8; got the byte 0xff at 1",
        r"line 5: expected at most 6 symbols.*got 7",
        r"error: 4 of 6 texts could not be translated\.",
    ]
    assert len(errors) == len(expected)
    for error, pattern in zip(errors, expected, strict=True):
        assert re.match(pattern, error)


def test_one_text_that_cannot_be_translated_is_one_line(numbers, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        run_translation("--load", numbers, "12x")
    message = capsys.readouterr().err
    assert leaving.value.code == 2
    assert message.startswith("error: text 1: 'x' (U+0078) at 2")
    assert message.count("\n") == 1


@pytest.fixture
def files(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "one.tsv").write_text("Run!\tChạy!\n", "utf-8")
    (tmp_path / "sided.tsv").write_text("Run!\tChạy!\nHelp!\t \nHello!\n\ta\n", "utf-8")
    (tmp_path / "latin.tsv").write_bytes(b"Run!\tCours !\nYes\tD\xe9j\xe0\n")
    training.fit(
        lambda params, carry, batch, key: (jnp.sum(params**2), (carry, {})),
        jnp.ones(1),
        optax.sgd(0.1),
        training.ArrayBatches(np.ones((2, 1), np.float32), 1),
        steps=1,
        key=jax.random.key(0),
        checkpoints=training.Checkpoints(tmp_path / "other/run", config={"cell": rnnjax.GRU(3)}),
    )
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--data en-xx", ["--data", "numbers, en-vi, en-fr", "'en-xx'"]),
        ("--data en-vi", ["--data", "translation/en-vi.tsv", "RNNJAX_DATA"]),
        ("--data {}/none.tsv", ["--data", "none.tsv"]),
        ("--data {}/empty.tsv", ["--data", "empty.tsv", "it is empty"]),
        ("--data {}/one.tsv", ["--data", "one.tsv", "Give more pairs"]),
        (
            "--data {}/sided.tsv",
            ["line 2: the target is empty", "line 3: expected source, tab", "line 4: the source"],
        ),
        ("--data {}/latin.tsv", ["latin.tsv: line 2: expected UTF-8", "0xe9 at 5"]),
        ("--hidden 5", ["--hidden", "even", "got 5"]),
        ("--epochs 0", ["--epochs", "got 0"]),
        ("--beam 0", ["--beam", "got 0"]),
        ("--dropout 1", ["--dropout", "[0, 1)"]),
        ("--average 1", ["--average", "(0, 1)"]),
        ("--learning-rate nan", ["--learning-rate", "got nan"]),
        ("--out {}/taken", ["--out", "thesis.tex", "another folder"]),
        ("--resume --out {}/none", ["--out", "Train one first: python -m"]),
        ("--load {}/none 21", ["--load", "Train one first: python -m"]),
        ("--load {}/other 21", ["--load", "of another task"]),
        ("--load NUMBERS", ["--load", "--file", "got neither"]),
        ("--load NUMBERS 21 --resume", ["--load", "--resume", "one of the two"]),
        ("--load NUMBERS 21 --file {}/one.tsv", ["--file", "got both"]),
        ("--load NUMBERS --file {}/none.txt", ["--file", "none.txt"]),
        ("--load NUMBERS --file {}/empty.tsv", ["--file", "empty.tsv is empty"]),
        ("--seed -1", ["--seed", "got -1"]),
        ("21", ["--load", "folder of a trained model"]),
    ],
)
def test_mistakes_are_one_line_and_status_2(argv, words, files, numbers, capsys, monkeypatch):
    monkeypatch.delenv(datasets.ROOT, raising=False)
    argv = argv if "--out" in argv else f"{argv} --out {{}}/run"
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        translation.command(
            [str(numbers) if word == "NUMBERS" else word.format(files) for word in argv.split()]
        )
    message = capsys.readouterr().err
    assert leaving.value.code == 2
    assert message.startswith("error: --")
    assert message.count("\n") == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("argv", "cell"), [("", "gru"), ("--data en-vi", "lstm"), ("--data en-fr --cell gru", "gru")]
)
def test_a_name_brings_other_defaults(argv, cell, monkeypatch):
    seen = []
    monkeypatch.setattr(translation, "main", seen.append)
    translation.command(argv.split())
    assert seen[0].cell == cell


# --- the model ---


# Compiled once a model, and run once.
jit = functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILATION)


@functools.cache
def small(attention, cell="gru", layers=1):
    options = translation.Options(
        attention=attention, cell=cell, hidden=6, layers=layers, embedding=4
    )
    model = translation.build(options, 9)
    return model, jit(translator.initial_params.__wrapped__)(model, 3)


def small_batch():
    generator = np.random.default_rng(5)
    source = Padded(generator.integers(2, 9, (5, 3), np.int32), np.array([5, 1, 3], np.int32))
    target = Padded(generator.integers(2, 9, (7, 3), np.int32), np.array([7, 4, 1], np.int32))
    return {"source": source, "target": target}


@jit
def read_all(model, params, source, target):
    read = translator.before(target.values)
    return model.apply(params, source, read, target.lengths, noise=False)


@jit
def read_one(model, params, carry, token, context):
    return model.apply(params, carry, token, context, method="read_one")


@functools.partial(jit, static_argnums=(0, 1))
def loss(model, smoothing, *arguments):
    return translator.loss(model, smoothing, *arguments)


@pytest.mark.parametrize(
    ("attention", "cell", "layers"),
    [
        ("additive", "gru", 1),
        ("general", "lstm", 2),
        ("none", "lstm", 1),
    ],
)
def test_teacher_forcing_is_step_by_step(attention, cell, layers):
    model, params = small(attention, cell, layers)
    batch = small_batch()
    whole, weights = read_all(model, params, batch["source"], batch["target"])
    context, carry = jit(translating.encode.__wrapped__)(model, params, batch["source"])
    steps = []
    for token in translator.before(jnp.asarray(batch["target"].values)):
        carry, logits = read_one(model, params, carry, token, context)
        steps.append(logits)
    valid = np.arange(7)[:, None] < batch["target"].lengths
    assert largest_difference(np.stack(steps)[valid], whole[valid]) < TOLERANCE["float32"]
    if attention == "none":
        assert weights is None
    else:
        sums = np.asarray(weights).sum(-1)
        np.testing.assert_allclose(sums[valid], 1.0, rtol=1e-5)
        assert not np.asarray(weights)[:, 1, 1:].any()  # its source has one symbol


def test_padding_changes_nothing():
    model, params = small("additive")
    batch = small_batch()
    longer = jax.tree.map(lambda a: np.pad(a, ((0, 2), (0, 0))) if a.ndim > 1 else a, batch)
    expected, _ = loss(model, 0.1, params, None, batch, None)
    found, (_, metrics) = loss(model, 0.1, params, None, longer, None)
    assert largest_difference(found, expected) < TOLERANCE["float32"]
    assert int(metrics["tokens"]) == 12


def test_the_loss_is_smoothed_in_training_alone():
    model, params = small("additive")
    batch = small_batch()
    logits, _ = read_all(model, params, batch["source"], batch["target"])
    log_p = np.asarray(jax.nn.log_softmax(logits))
    valid = np.arange(7)[:, None] < batch["target"].lengths
    hit = np.take_along_axis(log_p, batch["target"].values[..., None], -1)[..., 0]
    value, _ = loss(model, 0.2, params, None, batch, None)
    assert float(value) == pytest.approx(-hit[valid].mean(), rel=1e-5)
    smoothed, _ = loss(model, 0.2, params, None, batch, jax.random.key(0))
    expected = -(0.8 * hit + 0.2 * log_p.mean(-1))[valid].mean()
    assert float(smoothed) == pytest.approx(expected, rel=1e-5)


def test_features_and_symbols_are_dropped_in_training_alone():
    options = translation.Options(hidden=6, embedding=4, dropout=0.5, symbol_dropout=0.2)
    model = translation.build(options, 9)
    params = small("additive")[1]
    batch = small_batch()
    quiet, plain = (
        loss(m, 0.0, params, None, batch, None)[0] for m in (model, small("additive")[0])
    )
    assert quiet == plain
    first, again, other = (
        loss(model, 0.0, params, None, batch, jax.random.key(k))[0] for k in (1, 1, 2)
    )
    assert first == again
    assert len({float(value) for value in (quiet, first, other)}) == 3


def test_greedy_takes_the_likeliest_and_rows_do_not_depend_on_each_other(numbers):
    saved = translation.load(numbers, "--load")
    cut, limits = saved.config["subwords"], Limits(saved.config["shapes"], saved.config["target"])
    model = translation.build(translation.Options(**saved.config["options"]), len(cut))
    params = jax.tree.map(jnp.asarray, saved.average)
    sources = [cut.encode(text) for text in ("123456", "21", "7000")]
    with compiled_quickly():
        together = translating.translate(model, params, sources, limits)
        alone = [translating.translate(model, params, [one], limits)[0] for one in sources]
    np.testing.assert_array_equal(together, alone)
    for source, tokens in zip(sources, together, strict=True):
        target = Padded(tokens[:, None], np.array([len(tokens)], np.int32))
        logits, _ = read_all(model, params, translating.pad([source], limits.shapes), target)
        end = list(tokens).index(subwords.END) + 1
        likeliest = np.asarray(logits.argmax(-1))[:, 0]
        assert likeliest[:end].tolist() == tokens[:end].tolist()


def test_long_sources_stand_in_smaller_batches():
    corpus = Corpus([Pair(str(10**k), spell(10**k)) for k in (0, 0, 1, 2, 4, 5)] * 3, [], [])
    options = translation.Options(hidden=6, embedding=4, batch=4, buckets=3)
    task = translation.prepare(corpus, options, translation.cut(corpus, options))
    assert task.batches.shapes == {4: (4, 4), 6: (6, 2), 7: (7, 2)}
    assert task.limits == Limits((4, 6, 7), 6)


def test_where_a_translation_looked(numbers):
    saved = translation.load(numbers, "--load")
    options = translation.Options(**saved.config["options"])
    corpus = pairs.numbers(sizes=(20, 0, 0))
    task = translation.prepare(corpus, options, saved.config["subwords"])
    params = jax.tree.map(jnp.asarray, saved.average)
    words = spell(123_456)
    read, written, weights = translation.attend(task, params, "123456", words)
    assert read == [*"123456", "<end>"]
    assert written == [*words.split(), "<end>"]
    assert weights.shape == (12, 7)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-5)


# --- pairs ---


def test_numbers_are_the_same_ones_and_disjoint():
    corpus = pairs.numbers()
    assert [len(part) for part in corpus] == [5000, 500, 1000]
    drawn = [int(pair.source) for part in corpus for pair in part]
    assert len(set(drawn)) == 6500
    assert min(drawn) >= 0
    assert max(drawn) <= 999_999
    assert corpus == pairs.numbers()
    assert all(pair.target == spell(int(pair.source)) for pair in corpus.test)


@pytest.mark.parametrize(
    ("name", "sizes"), [("en-vi", (2831, 148, 332)), ("en-fr", (3657, 215, 436))]
)
def test_no_sentence_of_the_test_was_learnt(name, sizes, monkeypatch):
    monkeypatch.setenv(datasets.ROOT, str(DATA))
    if not (DATA / "translation").is_dir():
        pytest.skip(f"needs the pairs: set {datasets.ROOT} to a folder that holds them")
    corpus = pairs.read(name)
    assert tuple(len(part) for part in corpus) == sizes
    learnt, chosen, scored = ({pairs.twentieth(p.source) for p in part} for part in corpus)
    assert scored == {0, 1}
    assert chosen == {2}
    assert learnt == set(range(3, 20))
    keys = [{re.sub(r"\W+", " ", p.source.lower()).strip() for p in part} for part in corpus]
    assert not keys[2] & (keys[0] | keys[1])


def test_texts_are_brought_into_one_form():
    decomposed = "Cha\u0323y"
    assert pairs.parse(f"Run\t{decomposed}\r\n".encode(), "x") == [Pair("Run", "Chạy")]


# --- subwords ---


def test_byte_pairs_go_back_and_forth():
    texts = ["Tom chạy.", "Tom's dog ran, didn't it?", "L'été « vite » !"]
    cut = subwords.byte_pairs(texts, 60)
    assert [cut.decode(cut.encode(text)) for text in texts] == texts
    assert len(cut) <= 60
    assert cut.encode("Tom")[-1] == subwords.END
    assert cut.symbols(cut.encode("Tom")) == ["▁Tom", "<end>"]
    joined = subwords.Subwords(cut.json)
    assert joined.encode("Tom ran.").tolist() == cut.encode("Tom ran.").tolist()


def test_characters_that_were_never_seen_are_named():
    cut = subwords.byte_pairs(["abc"], 30)
    cut.require("cab")
    with pytest.raises(ValueError, match=r"'ж' \(U\+0436\) at 2 was never seen"):
        cut.require("cbж")


# --- baselines and scores ---

LEARNT = [
    Pair("The red cat sleeps.", "Le chat rouge dort."),
    Pair("A red dog eats.", "Un chien rouge mange."),
    Pair("The dog sleeps.", "Le chien dort."),
    Pair("The cat eats.", "Le chat mange."),
    Pair("A bird sleeps.", "Un oiseau dort."),
]


def test_the_nearest_source_is_the_one_with_the_rare_words():
    found = translation_baselines.nearest(LEARNT, ["A red cat.", "Birds and a bird."])
    assert found == ["Le chat rouge dort.", "Un oiseau dort."]


def test_word_for_word_knows_what_meets_most_often():
    found = translation_baselines.word_for_word(LEARNT, ["the dog eats.", "A CAT, a bird sleep."])
    assert found == ["Le chien mange .", "Un chat , un bird sleep ."]


def test_copying_learns_nothing():
    assert translation_baselines.copy(LEARNT, ["A cat."]) == ["A cat."]


def test_systems_are_compared_on_all_references():
    questions = [
        Question(f"{k}", (f"the quick brown fox number {k}", f"fox {k} is a quick brown one"))
        for k in range(30)
    ]
    good = [q.references[k % 2] for k, q in enumerate(questions)]
    close = [text.replace("quick", "slow") for text in good]
    nearly = [*good[:-1], close[-1]]
    found = translation_scores.compare({"good": good, "nearly": nearly, "close": close}, questions)
    assert found["good"]["BLEU"]["score"] == pytest.approx(100)
    assert found["nearly"]["BLEU"]["p"] > 0.05
    assert found["close"]["BLEU"]["p"] < 0.01
    assert found["close"]["chrF"]["high"] < 100
    assert translation_scores.exact(close[:1] + good[1:], questions) == pytest.approx(29 / 30)


def test_people_are_scored_against_each_other():
    questions = [Question("a", ("x y z w v", "x y z w v")), Question("b", ("only one",))]
    found = translation_scores.human(questions)
    assert found["sentences"] == 1
    assert found["BLEU"]["score"] == pytest.approx(100)


def test_the_end_of_a_number_counts_by_itself():
    sources = ["1000002", "1234567", "21", "9876543"]
    end = spell(876_543)
    translations = ["không trăm linh hai", spell(1_234_567), "hai mươi một", f"chín {end}"]
    found = translation_scores.numbers_right(translations, sources)
    assert found["exact"] == 0.25
    assert found["exact_by_digits"] == {"2": 0.0, "7": pytest.approx(1 / 3)}
    assert found["last_six_digits"] == 0.75


# --- what the page says ---

RESULTS = sorted((Path(__file__).parents[1] / "examples/results/translation").glob("*.json"))
PAGE = (Path(__file__).parents[1] / "docs/translation.md").read_text("utf-8")


def shares(results, system, measure):
    """Of runs that differ in the seed, as the page writes them."""
    return " / ".join(f"{result['test'][system][measure]:.1%}"[:-1] for result in results) + " %"


@pytest.mark.parametrize("attention", ["additive", "none", "general", "dot"])
def test_the_page_quotes_the_numbers(attention):
    found = [json.loads(f.read_text()) for f in RESULTS if f"numbers-{attention}-" in f.name]
    columns = [("this model", "exact"), ("this model, greedy", "exact")]
    columns += [("seven digits", "exact"), ("seven digits", "last_six_digits")]
    cells = " | ".join(shares(found, *column) for column in columns)
    assert f"| `{attention}` | {cells} |" in PAGE
    seconds = [result["training_seconds"] for result in found]
    assert min(seconds) > 8
    assert max(seconds) < 18.6


@pytest.mark.parametrize("name", ["en-vi", "en-fr"])
def test_the_page_quotes_the_sentences(name):
    scores = next(json.loads(f.read_text("utf-8")) for f in RESULTS if f.stem == name)
    assert translation_results.table_of_systems(scores["test"]) in PAGE
    for signature in scores["test"]["signatures"].values():
        assert signature in PAGE
    if name == "en-vi":
        assert translation_results.table_of_outputs(scores["outputs"]) in PAGE
