"""Weights in and out: bad input, files, cells of peers under the contract."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnnjax
from rnnjax import interop
from rnnjax.testing import check_cell, largest_difference

D, N = 3, 5
LSTM, GRU, BEFORE, ELMAN = (
    cell(N) for cell in (rnnjax.LSTM, rnnjax.GRU, rnnjax.GRUResetBefore, rnnjax.Elman)
)
PARAMS = {cell: cell.init(jax.random.key(0), D) for cell in (LSTM, GRU, BEFORE, ELMAN)}
TORCH = interop.to_torch(LSTM, PARAMS[LSTM])
TORCH_GRU = interop.to_torch(GRU, PARAMS[GRU])
KERAS = interop.to_keras(GRU, PARAMS[GRU])
STACK = rnnjax.Stack((LSTM, LSTM))


def without(tensors, name):
    return {k: a for k, a in tensors.items() if k != name}


def ones(*shape):
    return np.ones(shape, "float32")


CASES = {
    "missing": (
        lambda: interop.from_torch(LSTM, without(TORCH, "weight_hh_l0")),
        ValueError,
        r"from_torch: state must hold 'weight_hh_l0' of the shape \(20, 5\) for LSTM\(5\); it hold",
    ),
    "one bias": (
        lambda: interop.from_torch(LSTM, without(TORCH, "bias_hh_l0"), prefix=""),
        ValueError,
        r"must hold 'bias_hh_l0' of the shape \(20,\)",
    ),
    "superfluous": (
        lambda: interop.from_torch(LSTM, {**TORCH, "weight_ih_l1": ones(20, 5)}),
        ValueError,
        r"from_torch: state must hold nothing but .* for LSTM\(5\); got 'weight_ih_l1' too",
    ),
    "missing layer": (
        lambda: interop.from_torch(STACK, TORCH),
        ValueError,
        r"must hold 'weight_ih_l1' of the shape \(20, 5\)",
    ),
    "wrong prefix": (
        lambda: interop.from_torch(LSTM, TORCH, prefix="rnn."),
        ValueError,
        r"must hold 'rnn.weight_ih_l0' of the shape \(20, D\)",
    ),
    "misshapen": (
        lambda: interop.from_torch(LSTM, {**TORCH, "weight_hh_l0": ones(20, 6)}),
        ValueError,
        r"from_torch: state\['weight_hh_l0'\] must be \(20, 5\) for LSTM\(5\); got \(20, 6\)",
    ),
    "of another size": (
        lambda: interop.from_torch(rnnjax.LSTM(6), TORCH),
        ValueError,
        r"state\['weight_ih_l0'\] must be \(24, D\) for LSTM\(6\); got \(20, 3\)",
    ),
    "integers": (
        lambda: interop.from_torch(LSTM, {**TORCH, "bias_hh_l0": np.ones(20, int)}),
        TypeError,
        r"state\['bias_hh_l0'\] must be floating point; got int64",
    ),
    "no state": (
        lambda: interop.from_torch(LSTM, [1]),
        TypeError,
        "state must be a dict of arrays; got list",
    ),
    "no state for haiku": (
        lambda: interop.from_haiku(LSTM, 3),
        TypeError,
        "from_haiku: weights must be a dict of arrays; got int",
    ),
    "torch's reset form": (
        lambda: interop.from_torch(BEFORE, TORCH_GRU),
        ValueError,
        r"PyTorch; got GRUResetBefore\(5\). PyTorch applies the reset gate after .*rnnjax.GRU\(5\)",
    ),
    "wrapped": (
        lambda: interop.from_torch(rnnjax.Zoneout(LSTM), TORCH),
        ValueError,
        "one of Elman, GRU, LSTM, ProjectedLSTM for weights of PyTorch; .*of the cell inside",
    ),
    "unlike layers": (
        lambda: interop.from_torch(rnnjax.Stack((LSTM, GRU)), TORCH),
        ValueError,
        r"all layers must be alike, as PyTorch's are; got LSTM\(5\) and GRU\(5\)",
    ),
    "projection of another size": (
        lambda: interop.from_torch(
            rnnjax.ProjectedLSTM(N, projection=2),
            {**TORCH, "weight_hh_l0": ones(20, 2), "weight_hr_l0": ones(3, 5)},
        ),
        ValueError,
        r"state\['weight_hr_l0'\] must be \(2, 5\) for ProjectedLSTM\(5, proj.*; got \(3, 5\)",
    ),
    "cell class": (
        lambda: interop.from_torch(rnnjax.LSTM, TORCH),
        TypeError,
        "cell must be a Cell; got the class LSTM",
    ),
    "directions": (
        lambda: interop.from_torch_bidirectional((LSTM,), (LSTM, LSTM), TORCH),
        ValueError,
        "backwards must hold a cell for each of the 1 layers; got 2",
    ),
    "direction without tuple": (
        lambda: interop.from_torch_bidirectional(LSTM, LSTM, TORCH),
        TypeError,
        "forwards must be a tuple of cells",
    ),
    "one direction": (
        lambda: interop.from_torch_bidirectional((LSTM,), (LSTM,), TORCH),
        ValueError,
        r"must hold 'weight_ih_l0_reverse' of the shape \(20, D\)",
    ),
    "params of no stack": (
        lambda: interop.to_torch(STACK, PARAMS[LSTM]),
        ValueError,
        "to_torch: params must hold under 'layers' a tuple of 2 dicts",
    ),
    "params of another cell": (
        lambda: interop.to_torch(GRU, PARAMS[LSTM]),
        ValueError,
        r"to_torch: params must hold 'b_hn' of the shape \(5,\) for GRU\(5\)",
    ),
    "a bias that is not zero": (
        lambda: interop.to_torch(LSTM, PARAMS[LSTM], bias=False),
        ValueError,
        "to_torch: bias must be True for params whose b or b_hn is not zero",
    ),
    "keras reset before": (
        lambda: interop.from_keras(GRU, [*KERAS[:2], KERAS[2][0]]),
        ValueError,
        r"reset_after=True for GRU\(5\); the bias \(15,\) is that of reset_after=False. "
        r"Use rnnjax.GRUResetBefore\(5\)",
    ),
    "keras reset after": (
        lambda: interop.from_keras(BEFORE, KERAS),
        ValueError,
        r"the bias \(2, 15\) is that of reset_after=True. Use rnnjax.GRU\(5\)",
    ),
    "keras number": (
        lambda: interop.from_keras(GRU, KERAS * 2),
        ValueError,
        "weights must hold the kernel, .*; got 6 arrays",
    ),
    "keras shape": (
        lambda: interop.from_keras(GRU, [KERAS[0], ones(6, 15)]),
        ValueError,
        r"weights\['recurrent_kernel'\] must be \(5, 15\) for GRU\(5\); got \(6, 15\)",
    ),
    "keras dict": (lambda: interop.from_keras(GRU, {}), TypeError, "must be the list that layer"),
    "linen": (
        lambda: interop.from_linen(LSTM, {"params": interop.to_linen(LSTM, PARAMS[LSTM])}),
        ValueError,
        r"weights must hold 'ii.kernel' of the shape \(D, 5\)",
    ),
    "linen's reset form": (
        lambda: interop.to_linen(BEFORE, PARAMS[BEFORE]),
        ValueError,
        "Flax Linen applies the reset gate after the product",
    ),
    "b_hn in nnx": (
        lambda: interop.to_nnx(GRU, {**PARAMS[GRU], "b_hn": ones(N)}),
        ValueError,
        "to_nnx: params must have a b_hn of zeros",
    ),
    "haiku's reset form": (
        lambda: interop.from_haiku(GRU, {}),
        ValueError,
        r"Haiku applies the reset gate before the product: rnnjax.GRUResetBefore\(5\)",
    ),
    "haiku's activation": (
        lambda: interop.to_haiku(ELMAN, PARAMS[ELMAN]),
        ValueError,
        r"Haiku's VanillaRNN, rnnjax.Elman\(5, activation=jax.nn.relu\); got Elman\(5\)",
    ),
    "haiku's name": (
        lambda: interop.from_haiku(LSTM, interop.to_haiku(LSTM, PARAMS[LSTM]), name="memory"),
        ValueError,
        r"must hold 'memory/linear.w' of the shape \(D \+ 5, 20\) .*'lstm/linear.b'",
    ),
    "no equinox elman": (
        lambda: interop.from_equinox(ELMAN, {}),
        ValueError,
        r"cell must be one of GRU, LSTM for weights of Equinox; got Elman\(5\)",
    ),
    "equinox bias": (
        lambda: interop.from_equinox(GRU, without(interop.to_equinox(GRU, PARAMS[GRU]), "bias_n")),
        ValueError,
        r"must hold 'bias_n' of the shape \(5,\)",
    ),
    "a dot in a name": (
        lambda: interop.save_safetensors("nowhere", {"a.b": ones(1)}),
        ValueError,
        "strings without dots .*got 'a.b'",
    ),
    "a number in params": (
        lambda: interop.save_safetensors("nowhere", {"a": 1.0}),
        TypeError,
        "params must hold arrays only; got a = 1.0",
    ),
    "linen state": (
        lambda: interop.LinenCell(Counting(N)).init(jax.random.key(0), D),
        ValueError,
        r"module must have params alone.*\['batch_stats', 'params'\]",
    ),
    "linen output": (
        lambda: rnnjax.scan(
            cell := interop.LinenCell(Doubling(N)), cell.init(jax.random.key(0), D), ones(2, 1, D)
        ),
        ValueError,
        "the output must be one array that is a leaf of the carry",
    ),
    "nnx state": (
        lambda: interop.NNXCell(WithDropout, N).init(jax.random.key(0), D),
        ValueError,
        "variables of nnx.Param alone",
    ),
}


class Doubling(nn.SimpleCell):
    """An output that is no part of the carry."""

    @nn.compact
    def __call__(self, carry, x):
        carry, y = super().__call__(carry, x)
        return carry, 2 * y


class Counting(nn.SimpleCell):
    """A variable that is no param."""

    @nn.compact
    def __call__(self, carry, x):
        self.variable("batch_stats", "count", lambda: jnp.zeros(()))
        return super().__call__(carry, x)


class WithDropout(nnx.SimpleCell):
    """A state that is no param."""

    def __init__(self, *args, rngs):
        super().__init__(*args, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


@pytest.mark.parametrize("case", CASES)
def test_the_argument_is_named(case):
    call, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        call()


def test_without_biases():
    zero = {k: jnp.zeros_like(a) if k.startswith("b") else a for k, a in PARAMS[GRU].items()}
    ways = [(interop.from_torch, interop.to_torch), (interop.from_equinox, interop.to_equinox)]
    for read, write in [*ways, (interop.from_keras, interop.to_keras)]:
        weights = write(GRU, zero, bias=False)
        assert len(weights) == 2
        assert largest_difference(zero, read(GRU, weights)) == 0
    single = interop.to_haiku(
        rnnjax.Elman(N, activation=jax.nn.relu), PARAMS[ELMAN], double_bias=False
    )
    assert "b" not in single["vanilla_rnn/linear_1"]
    back = interop.from_haiku(rnnjax.Elman(N, activation=jax.nn.relu), single)
    assert largest_difference(PARAMS[ELMAN], back) == 0


def test_imported_params_are_copies():
    state = {name: a.copy() for name, a in TORCH.items()}
    params = interop.from_torch(LSTM, state)
    for tensor in state.values():
        tensor[...] = np.nan
    assert largest_difference(PARAMS[LSTM], params) == 0


def test_a_safetensors_file_keeps_structure_and_dtypes(tmp_path):
    params = {
        "rnn": {
            "layers": (PARAMS[LSTM], {k: a.astype("bfloat16") for k, a in PARAMS[GRU].items()})
        },
        "head": jnp.arange(3),
    }
    interop.save_safetensors(tmp_path / "params.safetensors", params)
    back = interop.load_safetensors(tmp_path / "params.safetensors")
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, params, back))
    assert largest_difference(params, back) == 0


def test_a_safetensors_file_of_pytorch_is_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(TORCH, tmp_path / "torch.safetensors")
    state = safetensors.load_file(tmp_path / "torch.safetensors")
    assert largest_difference(PARAMS[LSTM], interop.from_torch(LSTM, state)) == 0


def test_no_peer_is_imported():
    script = (
        "import sys, rnnjax; print(sorted({'torch','keras','haiku','equinox'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert found.stdout.decode().strip() == "[]"


ADAPTED = {
    "linen": ("flax", lambda _: interop.LinenCell(nn.SimpleCell(N))),
    "nnx": ("flax", lambda _: interop.NNXCell(nnx.SimpleCell, N)),
    "haiku": ("haiku", lambda haiku: interop.HaikuCell(haiku.VanillaRNN, N)),
    "equinox": ("equinox", lambda equinox: interop.EquinoxCell(equinox.nn.GRUCell, N)),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_a_peers_cell_keeps_the_contract(name):
    package, build = ADAPTED[name]
    check_cell(build(pytest.importorskip(package)), jax.random.key(1), D)
