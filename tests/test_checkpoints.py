"""Checkpoints: what is written comes back, what was damaged or does not fit never does."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax import training
from rnnjax.training import checkpoints, config, storage


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


@dataclasses.dataclass(frozen=True)
class Sizes:
    hidden: int
    inner: rnnjax.Cell


def everything():
    """A state with every kind of leaf that a run may hold."""
    params = {
        "float32": jax.random.normal(jax.random.key(0), (3, 40)),
        "bfloat16": jnp.arange(5, dtype=jnp.bfloat16),
        "complex": jnp.array([1 + 2j, -3j], jnp.complex64),
        "integers": jnp.arange(3, dtype=jnp.int8),
        "flags": jnp.array([True, False]),
        "scalar": jnp.float32(2.5),
        "nothing": jnp.zeros((0, 3)),
        "layers": ({"w": jnp.ones(2)}, [jnp.zeros(1), None]),
    }
    state = training.initial_state(
        params,
        optax.sgd(0.1),
        jax.random.key(7),
        carry=Pair(jnp.ones(2), jax.random.split(jax.random.key(8), 2)),
    )
    return state._replace(step=jnp.array(3, jnp.int32))


def save(folder, state, **progress):
    checkpoints.save(folder, checkpoints.snapshot(state), {"config": {}, "fit": {}}, progress)


def bits(tree):
    def raw(leaf):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        return array.dtype.name, array.shape, array.tobytes()

    return jax.tree.map(raw, tree)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of two whole steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for step in (1, 2):
        save(folder, small(step))
    return folder


def small(step):
    noise = np.random.default_rng(step).random((50, 20), np.float32)
    params = {"w": jnp.asarray(noise), "b": jnp.zeros(3)}
    state = training.initial_state(params, optax.sgd(0.1, momentum=0.9), jax.random.key(0))
    return state._replace(step=jnp.array(step, jnp.int32))


def test_every_leaf_comes_back_with_its_bits(tmp_path):
    state = everything()
    save(tmp_path, state, seconds=0.1)
    saved = training.load(tmp_path)
    assert saved.step == 3
    assert saved.progress == {"seconds": 0.1}
    again = saved.like(state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert bits(again) == bits(state)
    assert jax.tree.structure(saved.params) == jax.tree.structure(state.params)
    assert bits(saved.params) == bits(state.params)
    assert saved.average is None


def test_a_template_of_shapes_is_enough(whole):
    shapes = jax.eval_shape(lambda: small(2))
    assert bits(training.load(whole).like(shapes)) == bits(small(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s._replace(params={**s.params, "w": jnp.ones((50, 21))}),
            ["params/w", "20", "21"],
        ),
        (lambda s: s._replace(params={**s.params, "w": s.params["w"] > 0}), ["params/w", "bool"]),
        (lambda s: s._replace(params={"w": s.params["w"]}), ["params/b", "None here"]),
        (lambda s: s._replace(carry=jnp.ones(2)), ["carry", "None in the checkpoint"]),
        (lambda s: s._replace(key=jax.random.key(0, impl="rbg")), ["key", "rbg"]),
    ],
)
def test_a_state_of_another_model_names_what_differs(change, words, whole):
    with pytest.raises(training.MismatchError) as caught:
        training.load(whole).like(change(small(2)))
    for word in words:
        assert word in str(caught.value)


def test_params_of_a_kind_of_their_own_need_a_template(tmp_path):
    state = small(1)._replace(params=Pair(jnp.ones(2), jnp.zeros(2)))
    save(tmp_path, state)
    with pytest.raises(training.MismatchError, match="Pair"):
        _ = training.load(tmp_path).params
    assert bits(training.load(tmp_path).like(state)) == bits(state)


def flip(position):
    def damage(file):
        data = bytearray(file.read_bytes())
        data[int(position * (len(data) - 1))] ^= 0x10
        file.write_bytes(data)

    return damage


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def append(file):
    file.write_bytes(file.read_bytes() + b"\n")


def swap(file):
    """Exchange it with another file of the step."""
    step = next(path for path in file.parents if path.name.isdecimal())
    other = next(p for p in sorted(step.rglob("*")) if p.is_file() and p != file)
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def from_the_step_before(file):
    """Put there what the step before has under this name, or under no name."""
    step = next(path for path in file.parents if path.name.isdecimal())
    old = step.parent / "00000001" / file.relative_to(step)
    file.write_bytes(old.read_bytes() if old.exists() else b"old")


RANDOM = [0.1, 0.37, 0.61, 0.83]
DAMAGES = {
    **{f"flip at {at}": flip(at) for at in (0.0, 0.5, 1.0, *RANDOM)},
    "truncate": truncate,
    "empty": empty,
    "append": append,
    "delete": Path.unlink,
    "swap": swap,
    "of the step before": from_the_step_before,
}


def test_no_damage_to_any_file_is_read_silently(whole, tmp_path):
    files = [path.relative_to(whole) for path in (whole / "00000002").rglob("*") if path.is_file()]
    assert len(files) >= 8
    found = 0
    for number, (file, (name, damage)) in enumerate(itertools.product(files, DAMAGES.items())):
        folder = shutil.copytree(whole, tmp_path / f"{number}")
        before = (folder / file).read_bytes()
        damage(folder / file)
        if (folder / file).exists() and (folder / file).read_bytes() == before:
            continue  # both steps have the same file
        found += 1
        with pytest.raises(training.DamagedError, match="00000002"):
            training.load(folder, 2)
        with pytest.warns(UserWarning, match="damaged checkpoint is passed over.*00000002"):
            assert training.load(folder).step == 1, (file, name)
    assert found > len(files) * (len(DAMAGES) - 1)


@pytest.mark.parametrize("strange", ["strange", "arrays/d/strange"])
def test_a_file_too_many_is_damage(strange, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "00000002" / strange).write_text("?")
    with pytest.raises(training.DamagedError, match="strange is not its own"):
        training.load(folder, 2)


def test_a_step_under_the_name_of_another_is_damage(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "00000002").rename(folder / "00000009")
    with pytest.raises(training.DamagedError, match="was written as 00000002"):
        training.load(folder, 9)


def test_nothing_whole_is_an_error(whole, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        training.load(tmp_path)
    folder = shutil.copytree(whole, tmp_path / "run")
    for manifest in folder.rglob(storage.MANIFEST):
        manifest.unlink()
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(training.DamagedError, match="every checkpoint"),
    ):
        training.load(folder)
    with pytest.raises(FileNotFoundError, match="no checkpoint 00000007"):
        training.load(folder, 7)


def test_the_last_steps_and_their_best_are_kept(tmp_path):
    best = {3: 1, 4: 1, 5: 5, 6: 5}
    for step in range(1, 7):
        save(tmp_path, small(step), best={"step": best.get(step, 1), "score": 0.0})
        checkpoints.prune(tmp_path, step, keep=2)
        if step == 4:
            assert training.saved_steps(tmp_path) == [1, 3, 4]
    assert training.saved_steps(tmp_path) == [5, 6]
    assert training.load(tmp_path, best=True).step == 5


@contextlib.contextmanager
def file_size_limit(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def saver(folder):
    return checkpoints.Saver(training.Checkpoints(folder, keep=2), {"config": {}})


def check_harmless(folder, expected):
    """A save has failed: loudly, with nothing lost and nothing left behind."""
    assert training.load(folder).step == 1
    assert os.listdir(folder) == ["00000001"]
    assert "step 2 could not be saved" in str(expected.value)
    assert str(folder) in str(expected.value)


# A thread of Orbax's that cannot write fails once more when its event loop has gone.
orbax_gives_up = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@orbax_gives_up
def test_a_full_disk_is_loud_and_harmless(tmp_path):
    folder = tmp_path / "run"
    save(folder, small(1))
    saving = saver(folder)
    with file_size_limit(2000):
        saving.save(small(2), {})
        saving.close()
    with pytest.raises(training.SaveError) as caught:
        saving.wait()
    check_harmless(folder, caught)
    assert caught.value.errno == errno.EFBIG


@orbax_gives_up
def test_a_full_file_system_is_loud_and_harmless(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system of 8 MB cannot be mounted here")
    try:
        folder = tmp_path / "run"
        save(folder, small(1))
        (tmp_path / "filler").write_bytes(bytes(shutil.disk_usage(tmp_path).free - 4096))
        saving = saver(folder)
        saving.save(small(2), {})
        with pytest.raises(training.SaveError) as caught:
            saving.save(small(3), {})  # the failure of one save is told by the next
        saving.close()
        check_harmless(folder, caught)
        assert caught.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_made_is_an_error_with_its_path(tmp_path):
    (tmp_path / "file").touch()
    saving = saver(tmp_path / "file" / "run")
    saving.save(small(2), {})
    with pytest.raises(training.SaveError, match="file/run") as caught:
        saving.wait()
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
    saving.close()


CELLS = [
    rnnjax.LSTM(8, forget_bias=2.0, dtype=jnp.bfloat16),
    rnnjax.Stack((rnnjax.GRU(4), rnnjax.Zoneout(rnnjax.Elman(4), 0.1)), residual=True),
    rnnjax.LSTM(8, recurrent_kernel_init=rnnjax.initializers.Orthogonal(0.5)),
]


@pytest.mark.parametrize(
    "value",
    [
        *CELLS,
        rnnjax.Auto(memory_bytes=10),
        Sizes(3, rnnjax.GRU(2)),
        {"nested": ({"a": [1, 2.5, None, True, "x"]}, Path("a/b"), jnp.dtype(float))},
        jax.nn.relu,
        jnp.tanh,
    ],
    ids=["LSTM", "Stack", "initialiser", "strategy", "dataclass", "nested", "relu", "tanh"],
)
def test_a_config_is_rebuilt_from_text(value):
    assert config.decode(json.loads(json.dumps(config.encode(value)))) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": lambda x: x}, ["config.a", "lambda"]),
        ({"a": [object()]}, [r"config.a\[0\]"]),
        ({1: 2}, ["names as keys", "got 1"]),
        ({"$type": 2}, ["without a leading"]),
        (jnp.ones(2), ["config must hold"]),
        (Pair(1, 2), ["config must hold", "Pair"]),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(value, words):
    with pytest.raises(TypeError) as caught:
        config.encode(value)
    for word in words:
        assert caught.match(word)


def test_a_config_runs_no_code_of_modules_that_are_not_imported():
    with pytest.raises(ValueError, match="Import it first: import this_one"):
        config.decode({"$type": "this_one:Cell"})
    with pytest.raises(ValueError, match="no such dataclass"):
        config.decode({"$type": "subprocess:Popen", "args": "true"})


def test_a_class_inside_a_function_cannot_be_found_again():
    @dataclasses.dataclass(frozen=True)
    class Hidden:
        a: int

    with pytest.raises(TypeError, match="Move it to the top"):
        config.encode(Hidden(1))


def test_nan_is_the_same_as_nan():
    assert not list(config.differences({"a": float("nan")}, {"a": float("nan")}))


def test_only_steps_are_taken_for_steps(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "5").mkdir()
    (folder / "00000007").write_text("no folder")
    assert training.saved_steps(folder) == [1, 2]


def test_differences_are_named_field_by_field():
    a, b = (config.encode({"cell": rnnjax.LSTM(n), "symbols": s}) for n, s in ((8, "ab"), (9, "b")))
    assert list(config.differences(a, b)) == [
        "config.cell.size: 8 in the checkpoint, 9 here",
        "config.symbols: 'ab' in the checkpoint, 'b' here",
    ]
