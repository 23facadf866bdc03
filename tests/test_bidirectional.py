"""Both directions, layer upon layer; parity with PyTorch is in ``test_torch_parity.py``."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.cell import Keyed
from rnnjax.testing import TOLERANCE, largest_difference
from tests.cases import Attend, B, D, N, S, case

FORWARDS = (rnnjax.LSTM(N), Attend(rnnjax.GRU(N), memory=4))
BACKWARDS = (rnnjax.GRU(3), rnnjax.Zoneout(rnnjax.LSTM(N), rate=0.4))
CASE = case("zoneout")
XS = rnnjax.with_keys(jax.random.key(3), jnp.nan_to_num(CASE.xs.x))
CONTEXT = {"memory": jnp.ones((B, S, 4)), "memory_mask": jnp.ones((B, S), bool)}
OPTIONS = {
    "mask": CASE.mask,
    "lengths": CASE.lengths,
    "resets": CASE.resets,
    "context": CONTEXT,
}


def params():
    return rnnjax.init_bidirectional(FORWARDS, BACKWARDS, jax.random.key(0), D)


def run(xs=XS, **options):
    return rnnjax.bidirectional(FORWARDS, BACKWARDS, params(), xs, **{**OPTIONS, **options})


def by_hand(xs):
    """Four scans and two concatenations."""
    p = params()
    (lstm, attend), (gru, zoneout) = FORWARDS, BACKWARDS
    x = xs.x if isinstance(xs, Keyed) else xs
    first, y_1 = rnnjax.scan(lstm, p["forwards"][0], x, **OPTIONS)
    first_back, y_2 = rnnjax.scan(gru, p["backwards"][0], x, reverse=True, **OPTIONS)
    y = jnp.concatenate([y_1, y_2], -1)
    second, y_1 = rnnjax.scan(attend, p["forwards"][1], y, **OPTIONS)
    if isinstance(xs, Keyed):
        y = Keyed(y, jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 3)))(xs.key))
    second_back, y_2 = rnnjax.scan(zoneout, p["backwards"][1], y, reverse=True, **OPTIONS)
    return ((first, second), (first_back, second_back)), jnp.concatenate([y_1, y_2], -1)


@pytest.mark.parametrize("xs", [XS, XS.x], ids=["noise", "evaluation"])
def test_it_is_scans_side_by_side(xs):
    assert largest_difference(by_hand(xs), run(xs)) < TOLERANCE["float32"]


def test_noise_reaches_the_noisy_layer_alone():
    (noisy, noisy_back), _ = run()
    (still, still_back), _ = run(XS.x)
    assert largest_difference((noisy, noisy_back[0]), (still, still_back[0])) == 0
    assert largest_difference(noisy_back[1], still_back[1]) > 0


def test_two_directions_of_one_layer_draw_apart():
    cell = rnnjax.Zoneout(rnnjax.Elman(40), rate=0.5)
    drawn = rnnjax.init_bidirectional((cell,), (cell,), jax.random.key(0), D)
    xs = rnnjax.with_keys(jax.random.key(1), jnp.ones((1, 1, D)))
    ((ahead,), (back,)), _ = rnnjax.bidirectional((cell,), (cell,), drawn, xs)
    assert not ((ahead == 0) == (back == 0)).all()


def test_carries_go_in_and_out_layer_by_layer():
    carries, _ = run(resets=None)
    again, _ = run(resets=None, carry=carries)
    start = rnnjax.initial_carry(FORWARDS[0], params()["forwards"][0], B)
    assert largest_difference(run(carry=((start, None), (None, None))), run()) == 0
    assert largest_difference(carries, again) > 0


def test_each_layer_runs_its_own_way_and_all_of_it_compiles():
    strategies = (rnnjax.Sequential(defer=True), rnnjax.Chunked(size=2))
    got = jax.jit(lambda xs: run(xs, strategy=strategies))(XS)
    assert largest_difference(run(), got) < TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"forwards": rnnjax.LSTM(N)}, TypeError, "forwards must be a tuple of cells.*got LSTM"),
        ({"backwards": ()}, TypeError, r"backwards must be a tuple of cells.*got \(\)"),
        ({"backwards": (rnnjax.LSTM,) * 2}, TypeError, r"backwards\[0\] must be a Cell"),
        ({"backwards": BACKWARDS[:1]}, ValueError, "a cell for each of the 2 layers; got 1"),
        ({"params": {"forwards": ()}}, ValueError, "params must be a dict.*init_bidirectional"),
        ({"carry": (None, None)}, ValueError, "carry must be a pair.*2 layers"),
        ({"strategy": (rnnjax.Sequential(),)}, ValueError, "one for each of the 2 layers; got 1"),
    ],
)
def test_bad_input(change, error, match):
    given = {"forwards": FORWARDS, "backwards": BACKWARDS, "params": params(), "xs": XS}
    with pytest.raises(error, match=match):
        rnnjax.bidirectional(**{**given, **OPTIONS, **change})


def test_init_checks_its_cells():
    with pytest.raises(TypeError, match="init_bidirectional: forwards must be a tuple"):
        rnnjax.init_bidirectional(FORWARDS[0], BACKWARDS, jax.random.key(0), D)
    assert jax.tree.map(jnp.shape, params())["backwards"][1]["w_x"] == (N + 3, 4 * N)
