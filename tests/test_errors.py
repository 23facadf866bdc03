"""Bad input: refused before tracing, by name, with what was expected, what came and the mend."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import initializers
from rnnjax.testing import TOLERANCE, accepts, largest_difference
from tests.cases import Attend

LSTM = rnnjax.LSTM(5)
PARAMS = LSTM.init(jax.random.key(0), 3)
XS = jnp.ones((7, 4, 3))
CARRY = rnnjax.LSTMCarry(jnp.zeros((4, 5)), jnp.zeros((4, 5)))
CONV_LSTM = rnnjax.ConvLSTM(2, spatial_shape=(4, 5))
STACK = rnnjax.Stack((LSTM, rnnjax.GRU(5)))
ATTEND = Attend(rnnjax.GRU(5), 4)
CONTEXT = {"memory": jnp.ones((4, 6, 4)), "memory_mask": jnp.ones((4, 6), bool)}


class Unhashable:
    """An initialiser that is no value."""

    __hash__ = None

    def __call__(self, key, shape, dtype):
        return jnp.zeros(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Branches(rnnjax.Cell):
    """A step that asks a traced value for its truth."""

    def init(self, key, in_dim):
        return {}

    def initial_carry(self, params):
        return jnp.zeros((3,))

    def step(self, params, carry, u):
        return u if u[0] > 0 else carry


class OnlyGated(rnnjax.Sequential):
    """A strategy that refuses cells that are not gated."""

    def refusal(self, cell):
        return None if cell.gated() else "it needs a gated cell; use Sequential()."


def scan(xs=XS, carry=None, cell=LSTM, params=PARAMS, **options):
    return rnnjax.scan(cell, params, xs, carry, **options)


def attend(context):
    return scan(cell=ATTEND, params=ATTEND.init(jax.random.key(0), 3), context=context)


CASES = {
    "no batch axis": (
        lambda: scan(XS[:, 0]),
        ValueError,
        r"scan: xs must be \(T, B, 3\) for LSTM\(5\); got \(7, 3\). Add a batch axis: xs\[:, None",
    ),
    "no rows": (
        lambda: rnnjax.initial_carry(LSTM, PARAMS, 0),
        ValueError,
        "initial_carry: batch must be at least 1; got 0",
    ),
    "xs of rank 4": (lambda: scan(XS[None]), ValueError, r"xs must be \(T, B, 3\).*\(1, 7, 4, 3\)"),
    "width": (
        lambda: scan(jnp.ones((7, 4, 2))),
        ValueError,
        r"xs must be \(T, B, D\) = \(7, 4, 3\) for LSTM\(5\).*got \(7, 4, 2\)",
    ),
    "integers": (
        lambda: scan(jnp.ones((7, 4, 3), int)),
        TypeError,
        r"xs must be floating point for LSTM\(5\); got int32. Embed or one-hot",
    ),
    "not arrays": (lambda: scan([["a"]]), TypeError, "xs must hold arrays only"),
    "structure": (lambda: scan({"x": XS}), ValueError, "xs must have the structure"),
    "step without batch": (
        lambda: rnnjax.step(LSTM, PARAMS, jnp.ones((3,))),
        ValueError,
        r"step: x must be \(B, 3\) for LSTM\(5\); got \(3,\). Add a batch axis: x\[None\].",
    ),
    "carry structure": (
        lambda: scan(carry=CARRY.h),
        ValueError,
        r"carry must have the structure .*LSTMCarry",
    ),
    "carry shape": (
        lambda: scan(carry=CARRY._replace(h=jnp.zeros((5,)))),
        ValueError,
        r"carry\.h must be \(4, 5\), batch first, for LSTM\(5\); got \(5,\)",
    ),
    "carry dtype": (
        lambda: scan(carry=CARRY._replace(c=jnp.zeros((4, 5), jnp.bfloat16))),
        TypeError,
        r"carry\.c must be float32 for LSTM\(5\); got bfloat16",
    ),
    "mask dtype": (
        lambda: scan(mask=jnp.ones((7, 4))),
        TypeError,
        "mask must be boolean; got float32. Write mask != 0",
    ),
    "mask shape": (
        lambda: scan(mask=jnp.ones((4, 7), bool)),
        ValueError,
        r"mask must be \(T, B\) = \(7, 4\); got \(4, 7\)",
    ),
    "resets dtype": (lambda: scan(resets=jnp.ones((7, 4), int)), TypeError, "resets must be bool"),
    "resets shape": (lambda: scan(resets=jnp.ones((7,), bool)), ValueError, r"resets must be \(T"),
    "reset of step": (
        lambda: rnnjax.step(LSTM, PARAMS, XS[0], reset=jnp.ones((3,), bool)),
        ValueError,
        r"step: reset must be \(B,\) = \(4,\); got \(3,\)",
    ),
    "lengths float": (lambda: scan(lengths=jnp.ones((4,))), TypeError, "lengths must be integers"),
    "lengths shape": (
        lambda: scan(lengths=jnp.ones((4, 1), int)),
        ValueError,
        r"lengths must be \(B,\) = \(4,\); got \(4, 1\)",
    ),
    "lengths negative": (
        lambda: scan(lengths=np.array([1, -1, 2, 3])),
        ValueError,
        r"lengths must be within 0…T = 7; got -1",
    ),
    "lengths as a list": (
        lambda: scan(lengths=[7, 1, 2, 3]),
        TypeError,
        r"lengths must be one array; got \[7, 1, 2, 3\]. Write jnp.array",
    ),
    "lengths beyond T": (lambda: scan(lengths=jnp.array([8, 1, 2, 3])), ValueError, "got 8"),
    "reverse": (lambda: scan(reverse="yes"), TypeError, "reverse must be True or False"),
    "params": (lambda: scan(params=[]), TypeError, "params must be the dict that LSTM"),
    "context in params": (
        lambda: scan(params={**PARAMS, "context": 0}),
        ValueError,
        'params must not hold the entry "context"',
    ),
    "params of another cell": (
        lambda: scan(params=rnnjax.GRU(5).init(jax.random.key(0), 3)),
        ValueError,
        r"LSTM\(5\) cannot take one step with these params on one row .* \(3, 'float32'\)",
    ),
    "params nested": (
        lambda: scan(params={"cell": PARAMS}),
        ValueError,
        r"params must be what LSTM\(5\).init\(key, in_dim\) returns; these hold \['cell'\]",
    ),
    "params of one layer": (
        lambda: scan(cell=STACK, params=PARAMS),
        ValueError,
        r"params must be what Stack\(\(LSTM\(5\), GRU\(5\)\)\).init",
    ),
    "an own cell without batch axis": (
        lambda: scan(XS[:, 0], cell=Branches(), params={}),
        ValueError,
        r"Branches\(\) cannot take one step .*one row of the inputs, \('float32',\).*T, B come",
    ),
    "a branch on a traced value": (
        lambda: scan(cell=Branches(), params={}),
        TypeError,
        "TracerBoolConversionError",
    ),
    "unhashable field": (
        lambda: scan(cell=rnnjax.LSTM(5, bias_init=Unhashable())),
        TypeError,
        "cell must hash by value; LSTM does not",
    ),
    "complex": (
        lambda: scan(XS.astype(complex)),
        TypeError,
        r"xs must be real for LSTM\(5\); got complex64",
    ),
    "keys of a float": (
        lambda: scan(cell=rnnjax.Zoneout(LSTM), xs=rnnjax.Keyed(XS, XS)),
        TypeError,
        "xs.key must hold keys of jax.random; got float32",
    ),
    "context dtype": (
        lambda: attend({**CONTEXT, "memory_mask": jnp.ones((4, 6), int)}),
        TypeError,
        r"context\['memory_mask'\] must be boolean",
    ),
    "context missing": (lambda: attend(None), ValueError, "context must hold 'memory'.*Attend"),
    "context not a dict": (lambda: attend(XS), TypeError, "context must be a dict"),
    "context without batch": (
        lambda: attend({**CONTEXT, "memory": jnp.ones((6, 4))}),
        ValueError,
        r"context\['memory'\] must lead with the batch axis \(B,\) = \(4,\); got \(6, 4\)",
    ),
    "context rank": (
        lambda: attend({**CONTEXT, "memory": jnp.ones((4, 6))}),
        ValueError,
        r"context\['memory'\] must have the batch axis and 2 more",
    ),
    "strategy string": (
        lambda: scan(strategy="fast"),
        TypeError,
        r"strategy must be a Strategy; got 'fast'. Pass a Strategy such as rnnjax.Sequential\(\)",
    ),
    "strategy class": (
        lambda: scan(strategy=rnnjax.Chunked),
        TypeError,
        "got the class Chunked. Make an instance",
    ),
    "strategy refuses": (
        lambda: scan(
            cell=rnnjax.GRUResetBefore(5),
            params=rnnjax.GRUResetBefore(5).init(jax.random.key(0), 3),
            strategy=OnlyGated(),
        ),
        ValueError,
        r"OnlyGated\(.*\) cannot run GRUResetBefore\(5\): it needs a gated cell; use Sequential",
    ),
    "strategies without layers": (
        lambda: scan(strategy=(rnnjax.Sequential(),)),
        TypeError,
        r"a tuple of strategies is for a Stack; LSTM\(5\) takes one",
    ),
    "strategies of another number": (
        lambda: scan(
            cell=STACK, params=STACK.init(jax.random.key(0), 3), strategy=(rnnjax.Sequential(),)
        ),
        ValueError,
        "one strategy for each of the 2 layers.*got 1",
    ),
    "cell class": (
        lambda: scan(cell=rnnjax.LSTM),
        TypeError,
        "cell must be a Cell; got the class LSTM. Make an instance",
    ),
    "keys": (
        lambda: scan(
            cell=rnnjax.Zoneout(LSTM),
            xs=rnnjax.Keyed(XS, jax.random.split(jax.random.key(0), 7)),
        ),
        ValueError,
        r"xs.key must hold one key each for \(T, B\) = \(7, 4\); got \(7,\)",
    ),
    "keys for no array": (lambda: rnnjax.with_keys(jax.random.key(0), {}), ValueError, "xs must l"),
    "size zero": (lambda: rnnjax.LSTM(0), ValueError, "LSTM: size must be at least 1; got 0"),
    "size negative": (lambda: rnnjax.GRU(-2), ValueError, "GRU: size must be at least 1; got -2"),
    "size float": (lambda: rnnjax.Elman(2.0), TypeError, "Elman: size must be an int; got 2.0"),
    "in_dim zero": (lambda: LSTM.init(jax.random.key(0), 0), ValueError, "in_dim must be at least"),
    "in_dim rank": (
        lambda: LSTM.init(jax.random.key(0), (2, 3)),
        ValueError,
        "number of input fea",
    ),
    "dtype": (lambda: rnnjax.LSTM(5, dtype="int32"), TypeError, "dtype must be a floating-point"),
    "chrono": (lambda: initializers.Chrono(2), ValueError, "t_max must be greater than 2"),
    "unroll": (lambda: rnnjax.Sequential(unroll=0), ValueError, "unroll must be at least 1"),
    "block": (
        lambda: rnnjax.Sequential(hoist=True, block=0),
        ValueError,
        "block must be at least 1",
    ),
    "block alone": (
        lambda: rnnjax.Sequential(block=8),
        ValueError,
        "Sequential: block is for hoist=True",
    ),
    "merge": (
        lambda: rnnjax.Sequential(hoist=True, merge=True),
        ValueError,
        "merge takes the product of the inputs in the loop",
    ),
    "chunk": (lambda: rnnjax.Chunked(0), ValueError, "size must be at least 1"),
    "hoist": (lambda: rnnjax.Sequential(hoist="no"), TypeError, "hoist must be True or False"),
    "activation": (
        lambda: rnnjax.Elman(5, activation="tanh"),
        TypeError,
        "activation must be a function; got 'tanh'",
    ),
    "forget_bias": (
        lambda: rnnjax.LSTM(5, forget_bias=initializers.Constant(1.0)),
        TypeError,
        "forget_bias must be a number or a Chrono",
    ),
    "param_dtype": (
        lambda: rnnjax.GRU(5, param_dtype=None),
        TypeError,
        "param_dtype must be a dtype",
    ),
    "projection": (
        lambda: rnnjax.ProjectedLSTM(8, projection=8),
        ValueError,
        r"projection must be smaller than size = 8.*got 8. Without one: rnnjax.LSTM\(8\)",
    ),
    "heads": (
        lambda: rnnjax.SLSTM(10, heads=4),
        ValueError,
        "heads must divide size = 10; got 4. Use 2 heads",
    ),
    "spatial shape": (
        lambda: rnnjax.ConvLSTM(2, spatial_shape=(2, 2, 2, 2)),
        ValueError,
        "spatial_shape must have one, two or three dimensions",
    ),
    "kernel size": (
        lambda: rnnjax.ConvLSTM(2, spatial_shape=(4, 4), kernel_size=(3,)),
        ValueError,
        r"kernel_size must be one number or 2, .*got \(3,\)",
    ),
    "image in_dim": (
        lambda: CONV_LSTM.init(jax.random.key(0), 3),
        ValueError,
        r"in_dim must be \(\*spatial_shape, D\).*spatial_shape = \(4, 5\); got 3",
    ),
    "image of another size": (
        lambda: CONV_LSTM.init(jax.random.key(0), (4, 4, 3)),
        ValueError,
        r"spatial_shape = \(4, 5\); got \(4, 4, 3\)",
    ),
    "images of another rank": (
        lambda: scan(
            jnp.ones((7, 4, 4, 3)),
            cell=CONV_LSTM,
            params=CONV_LSTM.init(jax.random.key(0), (4, 5, 3)),
        ),
        ValueError,
        r"xs must be \(T, B, 4, 5, 3\) for ConvLSTM\(2, spatial_shape=\(4, 5\).*\(7, 4, 4, 3\)",
    ),
    "dt": (lambda: rnnjax.CTRNN(4, dt=0.0), ValueError, "dt must be greater than zero; got 0.0"),
    "tau": (lambda: rnnjax.CTRNN(4, tau=(-1, 2)), ValueError, "tau must be greater than zero"),
    "tau reversed": (lambda: rnnjax.CTRNN(4, tau=(3, 2)), ValueError, r"a pair \(low, high\)"),
    "tau of three": (lambda: rnnjax.CTRNN(4, tau=(1, 2, 3)), ValueError, "one number or a pair"),
    "tau of words": (lambda: rnnjax.CTRNN(4, tau="slow"), TypeError, "tau must be a finite number"),
    "epsilon": (
        lambda: rnnjax.LayerNormLSTM(4, epsilon=0.0),
        ValueError,
        "epsilon must be greater than zero",
    ),
    "gradient range": (
        lambda: initializers.GradientRange(10, low=2.0, high=1.0),
        ValueError,
        "0 ≤ low < high",
    ),
    "memory": (lambda: rnnjax.Auto(memory_bytes=0), ValueError, "memory_bytes must be at least 1"),
    "rate": (lambda: rnnjax.Zoneout(LSTM, rate=1.0), ValueError, r"probability in \[0, 1\)"),
    "rates": (
        lambda: scan(cell=rnnjax.Zoneout(LSTM, rate=(0.1,)), params=PARAMS),
        ValueError,
        "rate must be one number or 2",
    ),
    "wrapper": (lambda: rnnjax.Residual(5), TypeError, "Residual: cell must be a Cell; got 5"),
    "residual": (
        lambda: scan(cell=rnnjax.Residual(LSTM)),
        ValueError,
        r"the input must have the shape of the output, \(5,\); got \(3,\)",
    ),
    "stack of a list": (lambda: rnnjax.Stack([LSTM]), TypeError, "cells must be a tuple"),
    "stack of nothing": (lambda: rnnjax.Stack(()), ValueError, "at least one cell"),
    "stack of a class": (lambda: rnnjax.Stack((rnnjax.GRU,)), TypeError, r"cells\[0\] must be a"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_argument_is_named(case):
    call, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        call()


def test_traced_lengths_are_clamped():
    lengths = jnp.array([-3, 2, 7, 99])
    _, ys = jax.jit(lambda n: scan(lengths=n))(lengths)
    _, clamped = scan(lengths=jnp.clip(lengths, 0, 7))
    assert largest_difference(clamped, ys) < TOLERANCE["float32"]


def test_a_carry_that_changes_its_dtype_is_named_before_the_loop():
    class Narrows(rnnjax.Elman):
        def step(self, params, carry, u):
            return super().step(params, carry, u).astype(jnp.float16)

    cell = Narrows(5)
    with pytest.raises(TypeError, match=r"Narrows\(5\).step must keep carry float32\[5\]"):
        scan(cell=cell, params=cell.init(jax.random.key(0), 3))


def test_a_strategy_is_asked_for_the_layers_of_nested_stacks():
    nested = rnnjax.Stack((rnnjax.Stack((LSTM,)), rnnjax.GRU(5)))
    params = nested.init(jax.random.key(0), 3)
    _, ys = scan(cell=nested, params=params, strategy=OnlyGated())
    assert ys.shape == (7, 4, 5)
    assert accepts(OnlyGated(), nested)
    assert not accepts(OnlyGated(), rnnjax.Stack((LSTM, rnnjax.GRUResetBefore(5))))
