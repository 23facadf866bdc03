"""``tbptt_step`` and ``fit``: what a step computes, and what a run does around it."""

import functools
import json
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnnjax
from rnnjax import training
from rnnjax.training import checkpoints, compiled, progress, storage

CELL = rnnjax.LSTM(6)
BATCH, CHUNK, SYMBOLS = 3, 5, 7
SGD = optax.sgd(0.2)
TOKENS = np.random.default_rng(0).integers(0, SYMBOLS, 400)
KEY = jax.random.key(9)


def loss(params, carry, batch, key):
    xs = jax.nn.one_hot(batch.inputs, SYMBOLS)
    if key is not None:
        xs += 0.1 * jax.random.normal(key, xs.shape)
    carry, ys = rnnjax.scan(CELL, params["rnn"], xs, carry, resets=batch.resets)
    nats = optax.softmax_cross_entropy_with_integer_labels(ys @ params["head"], batch.targets)
    return nats.mean(), (carry, {"tokens": jnp.array(nats.size)})


def params():
    return {"rnn": CELL.init(jax.random.key(1), SYMBOLS), "head": jnp.zeros((6, SYMBOLS))}


def carry():
    return rnnjax.initial_carry(CELL, params()["rnn"], BATCH)


def chunks():
    return training.TokenStreams(TOKENS, batch_size=BATCH, chunk=CHUNK)


def held_out():
    return list(training.TokenStreams(TOKENS[::-1], batch_size=BATCH, chunk=20).once())[:2]


def scored(params):
    return training.evaluate(loss, params, held_out(), carry())["loss"]


def fit(*arguments, **options):
    return training.fit(loss, *arguments, **{"key": KEY, **options})


def quadratic(params, carry, batch, key):
    """A loss whose every step can be followed by hand: gradient 2 (params − batch)."""
    return jnp.mean((params - batch) ** 2), (carry, {})


def quadratic_fit(batches, *, start=0.0, rate=0.25, **options):
    options = {"key": KEY, "steps": len(batches), "log_every": 1, **options}
    return training.fit(quadratic, jnp.float32(start), optax.sgd(rate), batches, **options)


def close(a, b, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), a, b)


# --- one step ---


def test_a_step_is_the_gradient_of_the_chunk_alone():
    """The carry comes in as numbers: no gradient reaches the chunk that made it."""
    data = iter(chunks())
    state = training.initial_state(params(), SGD, KEY, carry=carry())
    for number in range(2):
        batch = next(data)
        key = jax.random.fold_in(KEY, number)
        (value, (out, _)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            state.params, state.carry, batch, key
        )
        expected = jax.tree.map(lambda p, g: p - 0.2 * g, state.params, gradient)
        state, metrics = training.compiled_step(loss, SGD, state, batch)
        close((state.params, state.carry, metrics["loss"]), (expected, out, value))
        close(metrics["gradient_norm"], optax.tree.norm(gradient))
        close(metrics["parameter_norm"], optax.tree.norm(expected))
    assert int(state.step) == 2


def test_a_learnt_carry_gets_no_gradient_from_a_carry_passed_on():
    def of_carry(params, carry, batch, key):
        return jnp.sum(params * 0.0 + carry), (params, {})

    state = training.initial_state(jnp.ones(2), SGD, KEY, carry=jnp.ones(2))
    for _ in range(2):
        state, metrics = training.tbptt_step(of_carry, SGD, state, None)
        assert metrics["gradient_norm"] == 0


def test_a_step_that_is_not_finite_changes_nothing_but_its_number():
    state = training.initial_state(jnp.float32(1), optax.sgd(0.1, momentum=0.9), KEY, average=True)
    step = functools.partial(training.tbptt_step, quadratic, optax.sgd(0.1, momentum=0.9))
    for bad in (jnp.nan, jnp.inf, 1e38):
        after, metrics = step(state, jnp.float32(bad), decay=0.5)
        assert not metrics["finite"]
        assert int(after.step) == 1
        close(after._replace(step=0, key=0), state._replace(step=0, key=0))


def test_the_average_follows_its_equation():
    state = training.initial_state(jnp.float32(0), SGD, KEY, average=True)
    expected = 0.0
    for step in range(15):
        state, _ = training.tbptt_step(quadratic, SGD, state, jnp.float32(step), decay=0.4)
        rate = min(0.4, (1 + step) / (10 + step))
        expected = rate * expected + (1 - rate) * float(state.params)
        assert float(state.average) == pytest.approx(expected, rel=1e-5)


def test_optimisers_see_the_loss():
    optimiser = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    with jax.numpy_dtype_promotion("standard"):
        state = training.initial_state(jnp.float32(0), optimiser, KEY)
        state, _ = training.tbptt_step(quadratic, optimiser, state, jnp.float32(1))
    assert float(state.optimiser[1].best_value) == 1.0


# --- runs ---


def test_a_run_is_its_steps():
    data = iter(chunks())
    state = training.initial_state(params(), SGD, KEY, carry=carry(), average=True)
    losses = []
    for _ in range(7):
        state, metrics = training.compiled_step(loss, SGD, state, next(data), decay=0.9)
        losses.append(float(metrics["loss"]))
    fitted = fit(params(), SGD, chunks(), steps=7, carry=carry(), average=0.9, log_every=3)
    close(fitted.state._replace(key=0), state._replace(key=0))
    assert [record["step"] for record in fitted.records] == [3, 6, 7]
    means = [record["loss"] for record in fitted.records]
    close(means, [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]])
    assert fitted.records[0]["tokens"] == 3 * BATCH * CHUNK
    assert fitted.best is None
    assert len(fitted.compilations) == 1


@pytest.mark.parametrize("optimiser", [SGD, optax.contrib.prodigy()], ids=["sgd", "prodigy"])
def test_what_is_handed_in_may_be_used_again(optimiser):
    """Prodigy's state begins as the params themselves."""
    start = jnp.ones(3)
    with jax.numpy_dtype_promotion("standard"):
        training.fit(quadratic, start, optimiser, [np.zeros(3, np.float32)] * 2, steps=2, key=KEY)
    close(start, np.ones(3))


def test_records_are_means_by_tokens():
    def weighted(params, carry, batch, key):
        return params * 0 + batch["loss"], (carry, {"tokens": batch["tokens"]})

    batches = [{"loss": np.float32(v), "tokens": np.int32(n)} for v, n in ((1, 1), (4, 2), (2, 1))]
    fitted = training.fit(weighted, jnp.float32(0), SGD, batches, steps=3, key=KEY, log_every=3)
    assert fitted.records[0]["loss"] == pytest.approx((1 + 8 + 2) / 4)
    assert fitted.records[0]["tokens"] == 4
    assert training.evaluate(weighted, jnp.float32(0), batches)["loss"] == pytest.approx(11 / 4)


def test_the_best_params_are_kept_and_patience_ends_a_run():
    scores = iter([3.0, 1.0, 2.0, float("nan"), 0.5])
    validation = training.Validation(lambda params: next(scores), every=2, patience=2)
    fitted = quadratic_fit([np.float32(1)] * 20, validation=validation)
    assert (fitted.best.step, fitted.best.score) == (4, 1.0)
    assert float(fitted.best.params) == pytest.approx(1 - 0.5**4)
    assert fitted.records[-1]["step"] == 8
    assert [r["validation_loss"] for r in fitted.records if "validation_loss" in r][:3] == [3, 1, 2]


def test_a_score_may_be_one_to_raise_and_may_have_company():
    scores = iter(
        [{"chrf": chrf, "bleu": bleu} for chrf, bleu in ((9.0, 1.0), (1.0, 3.0), (2.0, 2.0))]
    )
    validation = training.Validation(
        lambda params: next(scores), every=1, by="bleu", higher_is_better=True
    )
    fitted = quadratic_fit([np.float32(1)] * 3, validation=validation)
    assert fitted.best[:2] == (2, 3.0)
    assert fitted.records[-1]["validation_chrf"] == 2.0


def test_the_average_is_what_is_validated():
    seen = []
    validation = training.Validation(lambda params: seen.append(float(params)) or 0.0, every=3)
    fitted = quadratic_fit([np.float32(1)] * 3, average=0.9, validation=validation)
    assert seen == [pytest.approx(float(fitted.state.average))]
    assert seen[0] != float(fitted.state.params)


def test_a_run_ends_with_its_data_and_looks_at_its_end():
    validation = training.Validation(float, every=10)
    ones = [np.float32(1)] * 3
    fitted = quadratic_fit(ones, steps=10, log_every=10, validation=validation)
    assert int(fitted.state.step) == fitted.best.step == fitted.records[-1]["step"] == 3
    with pytest.raises(training.NonFiniteError, match="step 4"):
        quadratic_fit([*ones, np.float32(np.nan)], steps=10, log_every=10)


def test_a_batch_may_be_none():
    def alone(params, carry, batch, key):
        return params**2, (carry, {})

    fitted = training.fit(alone, jnp.float32(1), SGD, [None] * 4, steps=4, key=KEY)
    assert int(fitted.state.step) == 4


def test_steps_without_a_token_have_no_mean():
    def counted(params, carry, batch, key):
        return params**2 * batch, (carry, {"tokens": batch})

    batches = [np.float32(n) for n in (0, 0, 2)]
    fitted = training.fit(counted, jnp.float32(1), SGD, batches, steps=3, key=KEY, log_every=2)
    assert "loss" not in fitted.records[0]
    assert fitted.records[1]["loss"] > 0


def test_norms_of_half_precision_are_taken_in_single():
    big = jnp.ones(100_000, jnp.float16)

    def first(params, carry, batch, key):
        return params[0].astype(jnp.float32), (carry, {})

    state = training.initial_state(big, SGD, KEY)
    _, metrics = training.compiled_step(first, SGD, state, None)
    assert metrics["finite"]
    assert float(metrics["parameter_norm"]) == pytest.approx(100_000**0.5, rel=1e-4)


def test_a_complex_parameter_descends():
    def distance(params, carry, batch, key):
        return jnp.abs(params - (1 + 2j)) ** 2, (carry, {})

    start = jnp.array(0j, jnp.complex64)
    fitted = training.fit(distance, start, optax.sgd(0.1), [None] * 40, steps=40, key=KEY)
    np.testing.assert_allclose(fitted.state.params, 1 + 2j, atol=1e-3)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_number_of_the_step():
    batches = [np.float32(v) for v in (1, 1, np.nan, 1, 1, 1)]
    with pytest.raises(training.NonFiniteError, match=r"step 3 was not finite.*skip_") as caught:
        quadratic_fit(batches, log_every=5)
    assert caught.value.step == 3


def test_steps_that_are_not_finite_may_be_left_out():
    batches = [np.float32(v) for v in (1, np.nan, np.inf, 1)]
    fitted = quadratic_fit(batches, skip_nonfinite=True, log_every=3)
    assert float(fitted.state.params) == pytest.approx(0.75)
    assert fitted.records[0]["skipped"] == 2
    assert fitted.records[0]["loss"] == 1.0


def nan_at_step_6():
    batches = np.ones((8, 1), np.float32)
    batches[5] = np.nan
    return training.ArrayBatches(batches, 1, shuffle=False)


def test_checkpoints_are_of_steps_before_the_one_that_failed(tmp_path):
    with pytest.raises(training.NonFiniteError, match="step 6") as caught:
        quadratic_fit(nan_at_step_6(), checkpoints=training.Checkpoints(tmp_path, every=4))
    assert training.saved_steps(tmp_path) == [4]
    assert caught.value.__notes__ == ["The checkpoint of step 4 is good."]


def test_an_error_that_ends_a_run_says_what_could_not_be_saved(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(training.NonFiniteError) as caught:
        quadratic_fit(nan_at_step_6(), checkpoints=training.Checkpoints(tmp_path, every=4))
    (note,) = caught.value.__notes__
    assert "step 4 could not be saved" in note


def test_the_state_of_an_nnx_model_is_trained_and_resumed(tmp_path):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.Param(CELL.init(rngs.params(), SYMBOLS))
            self.head = nnx.Linear(6, SYMBOLS, rngs=rngs)

        def __call__(self, inputs, carry):
            carry, ys = rnnjax.scan(
                CELL, self.rnn.get_value(), jax.nn.one_hot(inputs, SYMBOLS), carry
            )
            return carry, self.head(ys)

    graph, state = nnx.split(Model(nnx.Rngs(0)))

    def nnx_loss(state, carry, batch, key):
        carry, logits = nnx.merge(graph, state)(batch.inputs, carry)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        return nats.mean(), (carry, {})

    for steps in (4, 8):
        kept = training.Checkpoints(tmp_path, every=4)
        fitted = training.fit(
            nnx_loss, state, SGD, chunks(), steps=steps, key=KEY, carry=carry(), checkpoints=kept
        )
    assert fitted.resumed_from == 4
    assert isinstance(fitted.state.params, nnx.State)
    again = training.load(tmp_path).like(fitted.state).params
    assert isinstance(again, nnx.State)
    close(again, fitted.state.params, atol=0)


# --- runs that are resumed ---


def resumable(folder, steps, **options):
    options = {"config": {"cell": CELL}, "data": chunks(), "params": params(), **options}
    kept = training.Checkpoints(folder, every=3, config=options.pop("config"))
    validation = training.Validation(scored, every=4)
    return fit(
        options.pop("params"),
        SGD,
        options.pop("data"),
        steps=steps,
        carry=carry(),
        checkpoints=kept,
        validation=validation,
        log_every=2,
        **options,
    )


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path):
    """In the usual mode to a tolerance; bit for bit in ``test_killed_runs``."""
    whole = resumable(tmp_path / "whole", 12)
    resumable(tmp_path / "parts", 8)
    parts = resumable(tmp_path / "parts", 12)
    assert parts.resumed_from == 8
    close(parts.state._replace(key=0), whole.state._replace(key=0))
    close(parts.best, whole.best)
    assert [r["step"] for r in parts.records] == [r["step"] for r in whole.records]
    assert [r["loss"] for r in parts.records] == pytest.approx([r["loss"] for r in whole.records])
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == parts.records


def test_a_run_that_has_ended_is_only_read(tmp_path):
    first = resumable(tmp_path, 8)
    again = resumable(tmp_path, 8)
    assert again.resumed_from == 8
    close(again.state._replace(key=0), first.state._replace(key=0), atol=0)
    assert again.records == first.records


def test_patience_outlasts_a_stop(tmp_path):
    data = training.ArrayBatches(np.ones((4, 1), np.float32), 1)

    def run(steps):
        validation = training.Validation(lambda params: 1.0, every=1, patience=4)
        kept = training.Checkpoints(tmp_path, every=1)
        return quadratic_fit(data, steps=steps, validation=validation, checkpoints=kept)

    run(3)  # of which two have failed to be the best
    assert int(run(20).state.step) == int(run(20).state.step) == 5


def test_lost_best_params_do_not_end_a_run(tmp_path):
    scores = iter(range(9))
    data = training.ArrayBatches(np.ones((4, 1), np.float32), 1)

    def run(steps):
        validation = training.Validation(lambda params: next(scores), every=2)
        kept = training.Checkpoints(tmp_path, every=2, keep=1)
        return quadratic_fit(data, steps=steps, validation=validation, checkpoints=kept)

    assert run(6).best.step == 2
    assert training.saved_steps(tmp_path) == [2, 6]
    (tmp_path / "00000002" / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"best params are lost.*00000002"):
        assert run(10).best.step == 8


def test_fewer_steps_than_there_are_is_an_error(tmp_path):
    resumable(tmp_path, 6)
    with pytest.raises(ValueError, match=r"steps must be at least 6.*got 4"):
        resumable(tmp_path, 4)


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    with storage.locked(tmp_path), pytest.raises(BlockingIOError, match="another run is at work"):
        resumable(tmp_path, 3)
    assert int(resumable(tmp_path, 3).state.step) == 3


def test_validation_is_deterministic_where_the_run_is(monkeypatch):
    seen, original = [], compiled._jitted_score

    def spied(deterministic, backend):
        seen.append(deterministic)
        return original(deterministic, backend)

    monkeypatch.setattr(compiled, "_jitted_score", spied)
    options = {"steps": 2, "carry": carry(), "validation": training.Validation(scored, every=2)}
    for deterministic in (True, False):
        fit(params(), SGD, chunks(), deterministic=deterministic, **options)
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"cell": rnnjax.LSTM(7)}}, "config.cell.size: 6 in the checkpoint, 7 here"),
        ({"average": 0.9}, "fit.average: None in the checkpoint, 0.9 here"),
        ({"deterministic": True}, "fit.deterministic"),
        ({"key": jax.random.key(1)}, "another key"),
        ({"params": {"rnn": CELL.init(KEY, SYMBOLS), "head": jnp.zeros((6, 8))}}, "params/head"),
        (
            {"data": training.TokenStreams(TOKENS + 1, batch_size=BATCH, chunk=CHUNK)},
            "other data.*hash",
        ),
        ({"data": training.TokenStreams(TOKENS, batch_size=BATCH, chunk=4)}, "other data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_run_in_the_folder_is_refused(change, words, tmp_path):
    resumable(tmp_path, 3)
    with pytest.raises(training.MismatchError, match=words):
        resumable(tmp_path, 6, **change)


def test_a_damaged_step_is_passed_over_with_a_warning(tmp_path):
    resumable(tmp_path, 6)
    (tmp_path / "00000006" / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="00000006/state.json"):
        fitted = resumable(tmp_path, 6)
    assert fitted.resumed_from == 4  # kept because it validated best
    assert training.load(tmp_path).step == 6


def test_a_model_is_rebuilt_from_its_folder_alone(tmp_path):
    fitted = resumable(tmp_path, 4)
    saved = training.load(tmp_path, best=True)
    _, ys = rnnjax.scan(saved.config["cell"], saved.params["rnn"], jnp.ones((3, 2, SYMBOLS)))
    _, expected = rnnjax.scan(CELL, fitted.best.params["rnn"], jnp.ones((3, 2, SYMBOLS)))
    close(ys, expected, atol=0)


def test_checkpoints_need_data_that_knows_its_position(tmp_path):
    with pytest.raises(TypeError, match=r"data must have iterators.*list_it"):
        quadratic_fit([np.float32(1)], checkpoints=training.Checkpoints(tmp_path))


def test_positions_that_cannot_be_saved_are_refused_at_once(tmp_path):
    class Bytes(list):
        def __iter__(self):
            return self

        def __next__(self):
            return np.float32(1)

        def get_state(self):
            return b"position"

        def set_state(self, state):
            pass

    with pytest.raises(TypeError, match=r"what json can write: .*bytes"):
        quadratic_fit(Bytes(), steps=2, checkpoints=training.Checkpoints(tmp_path))


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        resumable(tmp_path / "file" / "run", 2)


def test_a_signal_is_kept_until_the_step_is_saved(tmp_path):
    """The handlers of before are back afterwards; a thread that is not the main one has none."""
    before = signal.getsignal(signal.SIGTERM)

    class Asking(training.TokenStreams):
        def batch(self, epoch, number):
            if number == 3:
                signal.raise_signal(signal.SIGTERM)
            return super().batch(epoch, number)

    data = Asking(TOKENS, batch_size=BATCH, chunk=CHUNK)
    with pytest.raises(training.Preempted, match="SIGTERM: saved after step 4") as caught:
        resumable(tmp_path, 9, data=data)
    assert caught.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert training.load(tmp_path).step == 4
    thread = threading.Thread(target=resumable, args=(tmp_path, 6))
    thread.start()
    thread.join()
    assert training.load(tmp_path).step == 6


# --- what a run says ---


class Memory:
    def __init__(self):
        self.calls = []

    def start(self, step):
        self.calls.append(("start", step))

    def write(self, record):
        self.calls.append(("write", record["step"]))

    def sync(self):
        self.calls.append(("sync",))

    def close(self):
        self.calls.append(("close",))


def test_a_writer_hears_of_all_that_happens(tmp_path):
    memory = Memory()
    resumable(tmp_path, 4, writers=[memory])
    resumable(tmp_path, 6, writers=[memory])
    assert memory.calls == [
        ("start", 0), ("write", 2), ("sync",), ("write", 4), ("sync",), ("close",),
        ("start", 4), ("write", 6), ("sync",), ("close",),
    ]  # fmt: skip


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    file = tmp_path / "log.jsonl"
    records = [{"step": step, "loss": 0.5} for step in (2, 4, 6)]
    file.write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 8, "lo')
    log = training.JSONLines(file)
    log.start(4)
    log.write({"step": 6, "loss": 0.25})
    log.close()
    assert training.read_json_lines(file) == [*records[:2], {"step": 6, "loss": 0.25}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in protobuf's own code
def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboardX")
    quadratic_fit([np.float32(1)] * 2, writers=[training.TensorBoard(tmp_path)])
    (file,) = tmp_path.iterdir()
    assert b"gradient_norm" in file.read_bytes()


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    with progress.bar(10, 0) as report:
        report(5, "half")
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_shows_loss_and_speed(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    quadratic_fit([np.float32(1)] * 3)
    shown = capsys.readouterr().err
    assert "loss 1" in shown or "loss 0." in shown
    assert "steps/s" in shown
    assert "100%" in shown


# --- bad input ---


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        (lambda p: p, TypeError, r"must return \(value, \(carry, metrics\)\)"),
        (lambda p: (p, None), TypeError, "must return"),
        (lambda p: (p[None], (None, {})), ValueError, r"value must be a scalar; got \(1,\)"),
        (lambda p: (p, (None, {"m": p[None]})), ValueError, "m must be a scalar"),
        (lambda p: (p > 0, (None, {})), TypeError, "value must be floating point; got bool"),
        *(
            (lambda p, name=name: (p, (None, {name: p})), ValueError, f"'{name}' free.*Rename")
            for name in ("gradient_norm", "step", "validation_loss", "tokens_per_second")
        ),
        (lambda p: (p, ((p, p), {})), ValueError, r"PyTreeDef\(None\); got.*initial_carry"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_loss_that_returns_something_else_is_named(returned, error, words):
    def loss(params, carry, batch, key):
        return returned(params)

    state = training.initial_state(jnp.float32(0), SGD, KEY)
    with pytest.raises(error, match=words):
        training.tbptt_step(loss, SGD, state, None)
    with pytest.raises(error, match=words):
        training.evaluate(loss, jnp.float32(0), [jnp.ones(())])


def test_params_that_cannot_be_trained_are_named():
    state = training.initial_state({"seed": jnp.arange(2)}, SGD, KEY)
    with pytest.raises(TypeError, match=r"params\['seed'\] must be floating point.*nnx.Param"):
        training.tbptt_step(quadratic, SGD, state, jnp.float32(0))


def test_a_decay_and_an_average_belong_together():
    for averaged, decay in ((True, None), (False, 0.9)):
        state = training.initial_state(jnp.float32(0), SGD, KEY, average=averaged)
        with pytest.raises(ValueError, match="decay must be given with a state that has an aver"):
            training.tbptt_step(quadratic, SGD, state, jnp.float32(0), decay=decay)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 1.5}, TypeError, "steps must be an int"),
        ({"log_every": 0}, ValueError, "log_every"),
        ({"average": 1.0}, ValueError, r"average must be a decay in \(0, 1\)"),
        ({"validation": training.Validation(scored, every=0)}, ValueError, "Validation: every"),
        (
            {"validation": training.Validation(scored, every=1, patience=0)},
            ValueError,
            "Validation: patience",
        ),
        ({"checkpoints": training.Checkpoints("x", every=0)}, ValueError, "Checkpoints: every"),
        ({"checkpoints": training.Checkpoints("x", keep=0)}, ValueError, "Checkpoints: keep"),
        ({"validation": scored}, TypeError, "validation must be a Validation"),
        (
            {"validation": training.Validation(lambda p: {"a": 1.0}, every=1)},
            ValueError,
            r"by must name one of the scores, \['a'\]; got 'loss'",
        ),
        ({"checkpoints": "runs/1"}, TypeError, "checkpoints must be a Checkpoints"),
        ({"parallel": "mesh"}, TypeError, "parallel must be a DataParallel"),
        ({"key": 0}, TypeError, r"key must be a key of jax.random.*got 0"),
        ({"key": jax.random.split(KEY)}, ValueError, r"key must be one key; got .*\(2,\)"),
        ({"optimiser": optax.sgd}, TypeError, "optimiser must be a GradientTransformation"),
        ({"loss": 3}, TypeError, "loss must be a function"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(options, error, words):
    options = {
        "loss": loss, "params": params(), "optimiser": SGD, "data": chunks(), "steps": 3,
        "key": KEY, "carry": carry(), **options,
    }  # fmt: skip
    with pytest.raises(error, match=words):
        training.fit(**options)


def test_an_empty_validation_set_is_an_error():
    with pytest.raises(ValueError, match=r"at least one batch.*set empty"):
        training.evaluate(loss, params(), [])
