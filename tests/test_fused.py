"""``Fused``: kernels of any size on any number of threads, and what they are not made for."""

import concurrent.futures
import dataclasses
import importlib.util
import platform
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import rnnjax
from rnnjax.kernels import build, call, emit, loop
from rnnjax.kernels.trace import describe
from rnnjax.strategies import auto, measured
from rnnjax.strategies.fused import unavailable
from rnnjax.testing import FAST_COMPILATION, TOLERANCE, largest_difference
from tests.cases import skip_without_compiler

FUSED = rnnjax.Fused()
ROUNDED = rnnjax.Fused(product_dtype="bfloat16")


@pytest.fixture(autouse=True)
def _compiler(request):
    if "no_compiler" not in request.keywords:
        skip_without_compiler()


def value_and_grads(cell, params, xs, strategy, **options):
    """Return carry and outputs, and the gradients of a function of them."""

    def loss(params, xs):
        carry, ys = rnnjax.scan(cell, params, xs, strategy=strategy, **options)
        total = sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((carry, ys)))
        return total, (carry, ys)

    both = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, results), gradients = jax.jit(both, compiler_options=FAST_COMPILATION)(params, xs)
    return results, gradients


def arguments(cell, time, batch, in_dim):
    params = cell.init(jax.random.key(0), in_dim)
    return params, jax.random.normal(jax.random.key(1), (time, batch, in_dim))


# One kernel each way for each cell: time and batch are known when it runs.
SIZES = [(1, 1), (37, 2), (5, 17), (7, 40)]


@pytest.mark.parametrize(
    ("cell", "in_dim"), [(rnnjax.LSTM(21), 2), (rnnjax.GRU(70), 11), (rnnjax.Elman(1), 70)]
)
def test_any_size(cell, in_dim):
    for time, batch in SIZES:
        params, xs = arguments(cell, time, batch, in_dim)
        got = value_and_grads(cell, params, xs, FUSED)
        expected = value_and_grads(cell, params, xs, rnnjax.Sequential())
        assert largest_difference(expected, got) < 1e-5, (time, batch)


@pytest.mark.parametrize("flags", ["-mno-avx512f", "-mno-avx -mno-avx2 -mno-fma"])
def test_narrower_vectors(flags, monkeypatch):
    """AVX2 has eight lanes and half the registers, SSE four."""
    if platform.machine() != "x86_64":
        pytest.skip("flags of another CPU")
    monkeypatch.setenv("RNNJAX_CXXFLAGS", flags)
    call.load.cache_clear()
    cell = rnnjax.GRU(21)
    params, xs = arguments(cell, 5, 17, 11)
    got = value_and_grads(cell, params, xs, FUSED)
    call.load.cache_clear()
    assert largest_difference(value_and_grads(cell, params, xs, rnnjax.Sequential()), got) < 1e-5


# --- products of factors that are rounded ---


def rounded(a):
    return jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=7)


@jax.custom_vjp
def rounded_product(x, kernel):
    """x W of rounded factors; so are dx and dW."""
    return rounded(x) @ rounded(kernel)


rounded_product.defvjp(
    lambda x, kernel: (rounded_product(x, kernel), (x, kernel)),
    lambda factors, ct: (
        rounded(ct) @ rounded(factors[1]).T,
        jnp.outer(rounded(factors[0]), rounded(ct)),
    ),
)


class RoundedGRU(rnnjax.GRU):
    """What kernels of bfloat16 compute, told to JAX."""

    def encode(self, params, x):
        return rounded_product(x, params["w_x"]) + params["b"]

    def mix(self, params, h, u):
        return rounded_product(h, params["w_h"])


class RoundedLSTM(rnnjax.LSTM):
    """The same of an LSTM."""

    encode, mix = RoundedGRU.encode, RoundedGRU.mix


class RowsOfInputs(rnnjax.LSTM):
    """u is no product."""

    def encode(self, params, x):
        return jnp.tile(x, 4)


class RoundedRowsOfInputs(RowsOfInputs):
    """With h W_h of rounded factors."""

    mix = RoundedGRU.mix


@pytest.mark.parametrize("flags", ["", "-mno-avx512bf16", "-mno-avx512f"])
def test_factors_of_products_may_be_rounded(flags, monkeypatch):
    """By the CPU's instruction for pairs, or by shifts and float32 products."""
    if flags and platform.machine() != "x86_64":
        pytest.skip("flags of another CPU")
    monkeypatch.setenv("RNNJAX_CXXFLAGS", flags)
    call.load.cache_clear()
    cell = rnnjax.GRU(21)
    params, xs = arguments(cell, 5, 17, 11)
    mask, resets = (jax.random.bernoulli(jax.random.key(k), 0.5, (5, 17)) for k in (2, 3))
    for options in ({}, {"mask": mask, "resets": resets, "reverse": True}):
        got = value_and_grads(cell, params, xs, ROUNDED, **options)
        expected = value_and_grads(RoundedGRU(21), params, xs, rnnjax.Sequential(), **options)
        assert largest_difference(expected, got) < 1e-4
    call.load.cache_clear()
    exact = value_and_grads(cell, params, xs, rnnjax.Sequential(), **options)
    assert 1e-3 < largest_difference(exact, got) < TOLERANCE["bfloat16"] / 2
    with jax.disable_jit():  # the plain loop, which rounds the same numbers
        plain = rnnjax.scan(cell, params, xs, strategy=ROUNDED, **options)
    assert largest_difference(plain, got[0]) < 1e-4


@pytest.mark.parametrize(
    ("cell", "told", "in_dim"),
    [
        (rnnjax.LSTM(32), RoundedLSTM(32), 1),
        (RowsOfInputs(18), RoundedRowsOfInputs(18), 18),
    ],
)
def test_rounded_gradients_of_several_blocks(cell, told, in_dim):
    """Of 264 and 143 rows. A factor that is nearly a tie may be rounded the other way."""
    params, xs = arguments(cell, 37, 11, in_dim)
    for options in ({}, {"reverse": True}):
        got = value_and_grads(cell, params, xs, ROUNDED, **options)
        expected = value_and_grads(told, params, xs, rnnjax.Sequential(), **options)
        assert largest_difference(expected, got) < TOLERANCE["bfloat16"] / 4


def test_gradients_of_weights_are_products_of_rounded_factors():
    """Of one row they are products of two numbers of 8 bits, which have 16."""
    cell = rnnjax.GRU(21)
    params, xs = arguments(cell, 2, 1, 11)
    for strategy in (FUSED, ROUNDED):
        _, (gradients, _) = value_and_grads(cell, params, xs.at[1].set(0), strategy)
        bits = [np.asarray(gradients[name]).view(np.uint32) for name in ("w_x", "w_h")]
        lower = [(np.any(b), np.any(b & 0xFF)) for b in bits]
        assert lower == [(True, strategy == FUSED)] * 2


@pytest.mark.no_compiler
def test_other_roundings_are_refused():
    with pytest.raises(ValueError, match=r'product_dtype must be "float32" or "bfloat16"; got'):
        rnnjax.Fused(product_dtype="float16")


def compiler_for_arm():
    if path := shutil.which("aarch64-linux-gnu-g++"):
        return [path]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu"]
    return pytest.skip("no compiler for aarch64: aarch64-linux-gnu-g++, or the package ziglang")


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_it_compiles_for_arm(way, tmp_path):
    cell = rnnjax.GRU(21)
    params, _ = arguments(cell, 1, 1, 3)
    description, _ = describe(cell, params, jax.ShapeDtypeStruct((3,), "float32"))
    (tmp_path / "kernel.cc").write_text(emit.source(description, way))
    flags = [flag for flag in build.FLAGS if not flag.startswith("-march")]
    files = [f"-I{jax.ffi.include_dir()}", "kernel.cc", "-o", "kernel.so"]
    command = [*compiler_for_arm(), *flags, *files]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("strategy", [FUSED, ROUNDED])
def test_the_same_bits_on_any_number_of_threads(strategy):
    cell = rnnjax.GRU(70)
    found = []
    for batch in (3, 40):
        params, xs = arguments(cell, 40, batch, 11)
        resets = jnp.zeros((40, batch), bool).at[7, 1].set(True)
        for threads in (1, 2, 3, 7, 1):
            call.set_threads(threads)
            try:
                found.append(value_and_grads(cell, params, xs, strategy, resets=resets))
            finally:
                call.set_threads(0)
        assert all(largest_difference(found[0], other) == 0 for other in found)
        found.clear()


def test_calls_from_several_threads():
    cell = rnnjax.LSTM(21)
    params, xs = arguments(cell, 9, 2, 2)
    step = jax.jit(jax.grad(lambda p, x: jnp.sum(rnnjax.scan(cell, p, x, strategy=FUSED)[1] ** 2)))
    inputs = [xs * k for k in range(4)]
    expected = [step(params, x) for x in inputs]

    def many(k):
        results = [step(params, inputs[k]) for _ in range(1000)]
        return max(largest_difference(expected[k], result) for result in results)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(many, range(4))) == [0.0] * 4


def test_masked_and_reset_inputs_of_nan_reach_nothing():
    cell = rnnjax.GRU(70)
    params, xs = arguments(cell, 5, 17, 11)
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, (5, 17))
    resets = jax.random.bernoulli(jax.random.key(3), 0.5, (5, 17))
    options = {"mask": mask, "resets": resets}
    expected = value_and_grads(cell, params, xs, FUSED, **options)
    spoilt = jnp.where(mask[:, :, None], xs, jnp.nan)
    got = value_and_grads(cell, params, spoilt, FUSED, **options)
    assert largest_difference(expected, got) == 0
    plain = value_and_grads(cell, params, xs, rnnjax.Sequential(), **options)
    assert largest_difference(plain, got) < 1e-5


def test_nan_and_inf_go_where_they_go_in_jax():
    cell = rnnjax.LSTM(21)
    params, xs = arguments(cell, 9, 2, 2)
    xs = xs.at[3, 0, 0].set(jnp.nan).at[3, 1, 1].set(jnp.inf)
    _, ys = rnnjax.scan(cell, params, xs, strategy=FUSED)
    _, expected = rnnjax.scan(cell, params, xs, strategy=rnnjax.Sequential())
    np.testing.assert_array_equal(np.isnan(ys), np.isnan(expected))
    assert not np.isnan(ys[:3]).any()


def kernels(function, *arrays):
    """The primitives of a program by name, with what they compute."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name.startswith("rnnjax_"):
                yield equation
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda a: hasattr(a, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*arrays).jaxpr))


def test_gradients_that_nobody_asked_for_are_not_computed():
    cell = rnnjax.GRU(5)
    params, xs = arguments(cell, 4, 2, 3)
    gradient = jax.grad(lambda p: jnp.sum(rnnjax.scan(cell, p, xs, strategy=FUSED)[1]))
    names = [equation.primitive.name for equation in kernels(gradient, params)]
    assert names == ["rnnjax_save", "rnnjax_back"]
    (_, back) = kernels(gradient, params)
    # W_x, b, W_h and b_hn; neither the inputs nor the initial carry, which is no param.
    assert sum(back.params["moving"]) == 4
    assert xs.shape not in [v.aval.shape for v in back.outvars]


def test_values_alone_save_nothing():
    cell = rnnjax.LSTM(5)
    params, xs = arguments(cell, 4, 2, 3)
    (run,) = kernels(lambda p, x: rnnjax.scan(cell, p, x, strategy=FUSED), params, xs)
    assert [v.aval.shape for v in run.outvars] == [(4, 2, 5), (4, 2, 0), (2, 5), (2, 5)]


def test_inside_scan_and_checkpoint():
    cell = rnnjax.GRU(5)
    params, xs = arguments(cell, 4, 2, 5)

    def loss(params, xs, strategy):
        @jax.checkpoint
        def layer(x, _):
            return rnnjax.scan(cell, params, x, strategy=strategy)[1], None

        return jnp.sum(jax.lax.scan(layer, xs, None, length=3)[0] ** 2)

    got, expected = (
        jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(params, xs, s)
        for s in (FUSED, rnnjax.Sequential())
    )
    assert largest_difference(expected, got) < 1e-6


def test_where_nothing_is_compiled():
    cell = rnnjax.GRU(5)
    params, xs = arguments(cell, 4, 2, 3)
    expected = rnnjax.scan(cell, params, xs, strategy=FUSED)
    with jax.disable_jit():
        assert largest_difference(expected, rnnjax.scan(cell, params, xs, strategy=FUSED)) < 1e-6


def test_a_learnt_initial_carry():
    cell = rnnjax.LearntCarry(rnnjax.LSTM(5))
    params, xs = arguments(cell, 4, 2, 3)
    resets = jnp.zeros((4, 2), bool).at[2, 0].set(True)
    got, expected = (
        value_and_grads(cell, params, xs, s, resets=resets) for s in (FUSED, rnnjax.Sequential())
    )
    assert largest_difference(expected, got) < 1e-6


def test_an_exported_program_is_plain(monkeypatch):
    cell = rnnjax.GRU(5)
    params, xs = arguments(cell, 4, 2, 3)
    run = jax.jit(lambda p, x: rnnjax.scan(cell, p, x, strategy=FUSED)[1])
    assert "custom_call" in run.lower(params, xs).as_text()
    exported = jax.export.export(run)(params, xs)
    assert "custom_call" not in exported.mlir_module()
    monkeypatch.setenv("RNNJAX_FUSED", "0")
    jax.clear_caches()
    assert "custom_call" not in run.lower(params, xs).as_text()
    assert not loop.enabled()


@dataclasses.dataclass(frozen=True)
class Timed(rnnjax.Elman):
    """u has beside the product one number a step, and decay one number for all units."""

    def init(self, key, in_dim):
        return {**super().init(key, in_dim), "decay": jnp.float32(0.3)}

    def encode(self, params, x):
        return super().encode(params, x), jnp.abs(x[0])

    def update(self, params, carry, u, r):
        product, elapsed = u
        kept = jnp.exp(-params["decay"] * elapsed)
        return kept * carry + (1 - kept) * jnp.tanh(product + r)


def test_numbers_that_all_units_share():
    cell = Timed(5)
    params, xs = arguments(cell, 4, 2, 3)
    got, expected = (value_and_grads(cell, params, xs, s) for s in (FUSED, rnnjax.Sequential()))
    assert largest_difference(expected, got) < 1e-6


# --- any update ---


@dataclasses.dataclass(frozen=True)
class Drawn(rnnjax.GatedCell):
    """A cell whose update is an expression, which names what it reads: c, d, u0, r0, s, p, …"""

    size: int
    expressions: tuple

    def init(self, key, in_dim):
        k_x, k_h, k_p = jax.random.split(key, 3)
        return {
            "w_x": jax.random.normal(k_x, (in_dim, 2 * self.size)),
            "w_h": 0.3 * jax.random.normal(k_h, (self.size, 2 * self.size)),
            "p": jax.random.normal(k_p, (2 * self.size,)),
            "s": jnp.float32(0.7),
        }

    def initial_carry(self, params):
        return jnp.zeros((self.size,)), jnp.ones((self.size,))

    def hidden(self, carry):
        return carry[0]

    def encode(self, params, x):
        return rnnjax.product(x, params["w_x"])

    def update(self, params, carry, u, r):
        n = self.size
        values = {
            "c": carry[0], "d": carry[1], "u0": u[:n], "u1": u[n:], "r0": r[:n], "r1": r[n:],
            "z0": (u + r)[:n], "z1": u[n:] + r[n:], "p0": params["p"][:n], "p1": params["p"][n:],
            "s": params["s"],
        }  # fmt: skip
        return tuple(jnp.tanh(evaluate(e, values)) for e in self.expressions)

    def readout(self, params, carry, u):
        return carry[0] + carry[1]


UNARY = {
    "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "silu": jax.nn.silu,
    "softplus": jax.nn.softplus, "elu": jax.nn.elu, "gelu": jax.nn.gelu, "sin": jnp.sin,
    "square": jnp.square, "abs": jnp.abs, "erf": jax.lax.erf, "root": lambda a: jnp.sqrt(1 + a * a),
    "exp": lambda a: jnp.exp(-jnp.abs(a)), "log": lambda a: jnp.log(1.5 + jnp.square(a)),
    "cube": lambda a: a**3, "inverse": lambda a: 1 / (1 + a * a), "hard": jax.nn.hard_tanh,
    "atan": jnp.arctan, "expm1": lambda a: jnp.expm1(-jnp.abs(a)),
    "sign": lambda a: a * jnp.sign(a),
}  # fmt: skip
BINARY = {
    "add": jnp.add, "mul": jnp.multiply, "sub": jnp.subtract, "max": jnp.maximum,
    "min": jnp.minimum, "where": lambda a, b: jnp.where(a > b, a, 0.5 * b),
    "div": lambda a, b: a / (1 + b * b), "logaddexp": jnp.logaddexp,
    "blend": lambda a, b: jax.nn.sigmoid(a) * a + (1 - jax.nn.sigmoid(a)) * b,
}  # fmt: skip
LEAVES = st.sampled_from(["c", "d", "u0", "u1", "r0", "r1", "z0", "z1", "p0", "p1", "s"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(sorted(UNARY)), inner),
        st.tuples(st.sampled_from(sorted(BINARY)), inner, inner),
    ),
    max_leaves=9,
)


def evaluate(expression, values):
    if isinstance(expression, str):
        return values[expression]
    name, *inner = expression
    # A scalar param alone is no vector of units, as an update has to return.
    inner = [evaluate(e, values) + jnp.zeros_like(values["c"]) for e in inner]
    return (UNARY | BINARY)[name](*inner)


@given(st.tuples(EXPRESSIONS, EXPRESSIONS).filter(lambda pair: "s" not in pair))
@settings(max_examples=5, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
def test_any_update(expressions):
    cell = Drawn(5, expressions)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params, xs = arguments(cell, 4, 3, 2)
        got, expected = (value_and_grads(cell, params, xs, s) for s in (FUSED, rnnjax.Sequential()))
    assert largest_difference(expected, got) < 2e-5  # Ill-conditioned ones are among them.


# --- elementary functions ---

FUNCTIONS = {
    "tanh": jnp.tanh, "logistic": jax.nn.sigmoid, "exp": jnp.exp, "log": jnp.log,
    "log1p": jnp.log1p, "expm1": jnp.expm1, "sqrt": jnp.sqrt, "erf": jax.lax.erf,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table(rnnjax.GatedCell):
    """The carry is every function of x."""

    size: int

    def init(self, key, in_dim):
        return {"w_h": jnp.zeros((self.size, self.size))}

    def initial_carry(self, params):
        return (jnp.zeros((self.size,)),) * len(FUNCTIONS)

    def hidden(self, carry):
        return carry[0]

    def update(self, params, carry, u, r):
        return tuple(function(u) for function in FUNCTIONS.values())


def exact(name, x):
    from scipy import special

    functions = {"logistic": special.expit, "erf": special.erf, "log1p": np.log1p}
    with np.errstate(all="ignore"):
        return functions.get(name, getattr(np, name, None))(x.astype(np.float64))


def ulps(got, true):
    """The error in units of the last place of the true value; where XLA flushes, of the least."""
    with np.errstate(all="ignore"):
        rounded = true.astype(np.float32)
        least = np.finfo(np.float32).tiny
        unit = np.spacing(np.maximum(np.abs(rounded), least)).astype(np.float64)
        error = np.abs(got.astype(np.float64) - true) / unit
    same = (got == rounded) | (np.isnan(got) & np.isnan(true))
    flushed = (np.abs(true) < least) & (np.abs(got) < least)
    return np.where(same | flushed, 0, np.nan_to_num(error, nan=np.inf))


def test_elementary_functions_over_all_exponents():
    """Within 4 units of the last place, or within XLA's own error where that is larger."""
    exponents = np.ldexp(1.0, np.arange(-149, 128))
    mantissas = 1 + np.random.default_rng(0).random(64)
    numbers = np.outer(exponents, mantissas).astype(np.float32).ravel()
    fine = np.linspace(-110, 100, 20_000, dtype=np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1], np.float32)
    x = np.concatenate([numbers, -numbers, fine, special])
    x = np.pad(x, (0, -x.size % 16)).reshape(1, -1, 16)
    cell = Table(16)
    _, found = rnnjax.scan(cell, cell.init(None, 16), jnp.asarray(x), strategy=FUSED)
    for (name, function), got in zip(FUNCTIONS.items(), found, strict=True):
        true = exact(name, x)
        own = ulps(np.asarray(jax.jit(function)(x)), true)
        # Subnormal arguments are zeros to XLA, and logarithms of zero −∞.
        normal = (np.abs(x) >= np.finfo(np.float32).tiny) | (x == 0) | np.isnan(x)
        error = ulps(np.asarray(got), true)
        assert error[normal].max() <= max(4, own[normal].max()), name
    ends = jnp.array([20.0, -20.0, np.inf, -np.inf] * 4).reshape(1, 1, 16)
    _, found = rnnjax.scan(cell, cell.init(None, 16), ends, strategy=FUSED)
    assert found[0][0, 0, :4].tolist() == [1.0, -1.0, 1.0, -1.0]


# --- refusals ---


class Mixing(rnnjax.Elman):
    def update(self, params, carry, u, r):
        return super().update(params, carry, u, jnp.cumsum(r))


class Shifted(rnnjax.LSTM):
    def update(self, params, carry, u, r):
        return super().update(params, carry, jnp.roll(u, 1), r)


class Closing(rnnjax.Elman):
    def update(self, params, carry, u, r):
        return super().update(params, carry, u, r * jnp.arange(self.size, dtype=r.dtype))


class Masked(rnnjax.Elman):
    def mix(self, params, h, u):
        return super().mix(params, jnp.where(h > 0, h, 0), u)


class Contextual(rnnjax.Elman):
    def context_shapes(self):
        return {"speaker": jax.ShapeDtypeStruct((self.size,), jnp.float32)}

    def update(self, params, carry, u, r):
        return super().update(params, carry, u, r * params["context"]["speaker"])


class Rounded(rnnjax.Elman):
    def update(self, params, carry, u, r):
        return jax.lax.reduce_precision(super().update(params, carry, u, r), 8, 7)


class Periodic(rnnjax.Elman):
    """A param is an integer."""

    def init(self, key, in_dim):
        return {**super().init(key, in_dim), "period": jnp.arange(self.size)}

    def update(self, params, carry, u, r):
        return super().update(params, carry, u, r * params["period"].astype(r.dtype))


class OneGateForAll(rnnjax.Elman):
    """u holds a gate that all units share, behind N entries."""

    def encode(self, params, x):
        return jnp.append(super().encode(params, x), x[0])

    def update(self, params, carry, u, r):
        n = self.size
        return super().update(params, carry, u[:n] * jax.nn.sigmoid(u[n]), r)


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


class Clipped(rnnjax.Elman):
    """The gradient of numbers that all units share is clipped when it has been summed up."""

    def init(self, key, in_dim):
        return {**super().init(key, in_dim), "q": jnp.array([0.5, 2.0])}

    def update(self, params, carry, u, r):
        q = clipped(params["q"])
        return super().update(params, carry, q[0] * u, q[1] * r)


REFUSED = [
    (Rounded(5), r"it rounds to \(8, 7\) bits"),
    (Periodic(5), r"its update reads int32, and a kernel float32"),
    (OneGateForAll(5), r"not made of gates of N = 5"),
    (Clipped(5), r"sums over hidden units"),
    (rnnjax.GRUResetBefore(5), r"needs a gated cell"),
    (rnnjax.LayerNormLSTM(5), r"sums over hidden units \(line .*layer_norm.py:\d+"),
    (rnnjax.MultiplicativeLSTM(5), r"has to be the default, one dense matrix"),
    (rnnjax.SLSTM(4), r"has to be the default, one dense matrix"),
    (rnnjax.LSTM(5, dtype="bfloat16"), r"computes in float32, and here is bfloat16"),
    (Mixing(5), r"it uses cumsum, which .*line .*test_fused.py:\d+"),
    (Shifted(5), r"cuts \[19:20:1\] out of 20 entries, not at multiples of N = 5"),
    (Masked(5), r"has to be the default"),
]


@pytest.mark.parametrize(("cell", "message"), REFUSED)
@pytest.mark.no_compiler
def test_refusals(cell, message):
    params, xs = arguments(cell, 4, 2, 3)
    with pytest.raises(ValueError, match=rf"scan: Fused\(\) cannot run \w+\(.*{message}"):
        rnnjax.scan(cell, params, xs, strategy=FUSED)
    assert unavailable(cell, params, jax.ShapeDtypeStruct((3,), "float32"))


def test_inputs_without_features():
    """Nothing is left of encode but its bias."""

    class Constant(rnnjax.Elman):
        def init(self, key, in_dim):
            params = super().init(key, 1)
            return {**params, "w_x": params["w_x"][:0], "b": jnp.ones(self.size)}

    cell = Constant(5)
    params, xs = cell.init(jax.random.key(0), 0), jnp.zeros((3, 2, 0))
    got, expected = (value_and_grads(cell, params, xs, s) for s in (FUSED, rnnjax.Sequential()))
    assert largest_difference(expected, got) < 1e-6


@pytest.mark.no_compiler
def test_float64_is_refused():
    with jax.enable_x64(True):
        cell = rnnjax.LSTM(5, param_dtype="float64")
        params, xs = arguments(cell, 4, 2, 3)
        with pytest.raises(ValueError, match=r"float32, and here is float64\. Use Sequential"):
            rnnjax.scan(cell, params, xs.astype("float64"), strategy=FUSED)


@pytest.mark.no_compiler
def test_what_update_closes_over_and_context_are_named():
    cell = Closing(5)
    params, xs = arguments(cell, 4, 2, 3)
    with pytest.raises(ValueError, match=r"iota|closes over an array"):
        rnnjax.scan(cell, params, xs, strategy=FUSED)
    cell = Contextual(5)
    with pytest.raises(ValueError, match=r"reads params\['context'\]\['speaker'\]"):
        rnnjax.scan(cell, params, xs, context={"speaker": jnp.ones((2, 5))}, strategy=FUSED)


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("RNNJAX_CXX", "no-such-compiler")
    call.load.cache_clear()
    cell = rnnjax.Elman(4)
    params, xs = arguments(cell, 3, 2, 2)
    assert "no C++ compiler" in (build.missing() or "")
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler: .* Install g\+\+"):
        rnnjax.scan(cell, params, xs, strategy=FUSED)


# --- Auto ---


@pytest.mark.no_compiler
def test_auto_takes_what_can_be_used(monkeypatch):
    sizes = (3, 2, 3, 5)
    monkeypatch.setattr(auto, "MEASURED", {sizes: rnnjax.Sequential(defer=True)})
    monkeypatch.setattr(auto, "FUSED", (sizes,))
    monkeypatch.setattr(auto, "SMALLEST", 1)
    xs = jax.ShapeDtypeStruct((4, 2, 3), "float32")

    def pick(cell):
        return rnnjax.Auto().select(cell, cell.init(jax.random.key(0), 3), xs)

    if build.missing() is None:
        assert pick(rnnjax.GRU(5))[0] == FUSED
    strategy, reason = pick(rnnjax.LayerNormGRU(5))
    assert strategy == rnnjax.Sequential(defer=True)
    assert "Fused() is not used: its update has to compute every hidden unit" in reason
    monkeypatch.setenv("RNNJAX_CXX", "no-such-compiler")
    strategy, reason = pick(rnnjax.GRU(5))
    assert strategy == rnnjax.Sequential(defer=True)
    assert "there is no C++ compiler" in reason
    monkeypatch.setenv("RNNJAX_FUSED", "0")
    assert "RNNJAX_FUSED=0" in pick(rnnjax.GRU(5))[1]


def test_auto_takes_kernels_on_a_cpu_alone(monkeypatch):
    monkeypatch.setattr(auto, "FUSED", tuple(measured.MEASURED))
    cell = rnnjax.LSTM(21)
    params, xs = arguments(cell, 9, 2, 2)
    on_cpu, elsewhere = (
        rnnjax.Auto().select(cell, params, xs, platform=platform)[0] for platform in ("cpu", "cuda")
    )
    assert on_cpu == FUSED
    assert isinstance(elsewhere, rnnjax.Sequential)
    results = value_and_grads(cell, params, xs, rnnjax.Auto())
    assert largest_difference(value_and_grads(cell, params, xs, FUSED), results) < 1e-6

    traced = jax.jit(lambda p, x: rnnjax.scan(cell, p, x)[1]).trace(params, xs)
    programs = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu")}
    assert "custom_call" in programs["cpu"]
    assert "while" not in programs["cpu"]
    assert "custom_call" not in programs["tpu"]
    assert "while" in programs["tpu"]


def test_auto_leaves_small_cells_to_the_scan(monkeypatch):
    monkeypatch.setattr(auto, "FUSED", tuple(measured.MEASURED))
    cell = rnnjax.GRU(4)
    strategy, reason = rnnjax.Auto().select(cell, *arguments(cell, 9, 2, 2))
    assert isinstance(strategy, rnnjax.Sequential)
    assert "Fused() is not used: its cell is small" in reason
