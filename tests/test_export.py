"""Exported programs, loaded in a new process: by jax.export bit for bit, and as ONNX."""

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.testing import largest_difference
from tests.cases import CELLS, case

T, B, D, N = 7, 2, 3, 5
CELL = rnnjax.Stack((rnnjax.LSTM(N), rnnjax.GRU(N)))

RUN_EXPORTED = """
import pathlib, sys, jax, numpy as np, rnnjax
folder = pathlib.Path(sys.argv[1])
inputs = np.load(folder / "inputs.npz")
scan, step = (
    jax.export.deserialize((folder / name).read_bytes()).call for name in ("scan", "step")
)
carry, ys = scan(inputs["xs"], inputs["lengths"])
assert isinstance(carry[0], rnnjax.LSTMCarry)
leaves = jax.tree.leaves((carry, ys, step(inputs["xs"][0], carry)))
np.savez(folder / "outputs.npz", *leaves)
"""

RUN_ONNX = """
import pathlib, sys, jax, jax2onnx, numpy as np, onnxruntime, rnnjax
from jax.extend.core import jaxpr_as_fun
cell = rnnjax.Stack((rnnjax.LSTM(5), rnnjax.GRU(5)))
params = cell.init(jax.random.key(0), 3)
scan = lambda xs: rnnjax.scan(cell, params, xs, lengths=np.array([7, 3]))
xs = np.random.default_rng(1).standard_normal((7, 2, 3)).astype("float32")
traced = jaxpr_as_fun(jax.make_jaxpr(scan)(xs))
path = str(pathlib.Path(sys.argv[1]) / "scan.onnx")
jax2onnx.to_onnx(traced, [xs.shape], return_mode="file", output_path=path)
session = onnxruntime.InferenceSession(path)
outputs = session.run(None, {session.get_inputs()[0].name: xs})
for expected, got in zip(jax.tree.leaves(scan(xs)), outputs, strict=True):
    np.testing.assert_allclose(expected, got, rtol=0, atol=2e-6)
"""


def run_anew(script, folder):
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=300)


@pytest.fixture(scope="module")
def trained():
    """Take a few steps of gradient descent, so that no bias is zero."""
    xs = jax.random.normal(jax.random.key(1), (T, B, D))
    params = CELL.init(jax.random.key(0), D)
    gradient = jax.jit(jax.grad(lambda p: jnp.mean((rnnjax.scan(CELL, p, xs)[1] - 0.3) ** 2)))
    for _ in range(3):
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient(params))
    return params, xs


def test_a_new_process_computes_the_same_bits(trained, tmp_path):
    params, xs = trained
    lengths = jnp.array([7, 3])
    # By name: with B open Auto may pick another strategy, of which the last bits differ.
    options = {"strategy": rnnjax.Sequential()}
    scan = jax.jit(lambda xs, lengths: rnnjax.scan(CELL, params, xs, lengths=lengths, **options))
    step = jax.jit(lambda x, carry: rnnjax.step(CELL, params, x, carry))
    t, b = jax.export.symbolic_shape("t, b")
    any_xs = jax.ShapeDtypeStruct((t, b, D), "float32")
    exported = jax.export.export(scan)(any_xs, jax.ShapeDtypeStruct((b,), "int32"))
    (tmp_path / "scan").write_bytes(exported.serialize())
    carry, ys = scan(xs, lengths)
    (tmp_path / "step").write_bytes(jax.export.export(step)(xs[0], carry).serialize())
    np.savez(tmp_path / "inputs.npz", xs=xs, lengths=lengths)

    run_anew(RUN_EXPORTED, tmp_path)
    outputs = np.load(tmp_path / "outputs.npz")
    expected = jax.tree.leaves((carry, ys, step(xs[0], carry)))
    assert len(expected) == len(outputs.files)
    assert largest_difference(expected, [outputs[name] for name in outputs.files]) == 0


def test_programs_with_any_carry_can_be_saved():
    carries = {name: case(name).carry for name in CELLS}
    exported = jax.export.export(jax.jit(lambda carries: carries))(carries)
    back = jax.export.deserialize(exported.serialize())
    assert back.out_tree == jax.tree.structure(carries)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("jax2onnx", "onnxruntime"))),
    reason="jax2onnx or onnxruntime is not installed",
)
def test_onnx_runtime_computes_the_same(tmp_path):
    run_anew(RUN_ONNX, tmp_path)
