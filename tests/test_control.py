"""The control example: environments as pure functions, what is learnt in them, runs, bad input."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

import rnnjax
from examples import control
from examples.support import acting, actor_critic, control_results, policies
from examples.support.acting import Policy, Seen
from examples.support.actor_critic import Weights
from examples.support.environments import (
    BUMP,
    EAST,
    GOAL,
    NORTH,
    SCALES,
    SOUTH,
    STEEPEST,
    WEST,
    WIDEST,
    CartPole,
    OnCart,
    TMaze,
    slopes,
)
from rnnjax import training
from rnnjax.testing import tolerance

pytestmark = pytest.mark.usefixtures("optax_promotion")

SOUTHERN, NORTHERN, CORRIDOR, JUNCTION = (0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 0)


def walk(maze, north, actions):
    """What is seen before each step and after the last, and what the steps give."""
    state = maze.start(jax.random.key(0))._replace(north=jnp.array(north))
    seen, moves = [tuple(maze.observe(state).astype(int).tolist())], []
    for action in actions:
        moved = maze.step(state, jnp.array(action))
        state = moved.state
        seen.append(tuple(maze.observe(state).astype(int).tolist()))
        moves.append(moved)
    return seen, moves


# --- the T-maze ---


@pytest.mark.parametrize("north", [True, False])
def test_the_cue_is_seen_at_the_start_only(north):
    seen, moves = walk(TMaze(3), north, [EAST] * 3)
    assert seen == [NORTHERN if north else SOUTHERN] + [CORRIDOR] * 2 + [JUNCTION]
    assert [float(moved.reward) for moved in moves] == [0.0] * 3
    assert not any(bool(moved.ended) for moved in moves)


def test_the_way_back_to_the_start_shows_the_cue_again():
    seen, _ = walk(TMaze(3), True, [EAST, WEST])
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize(
    ("north", "turn", "reward", "score"),
    [
        (True, NORTH, GOAL, 1),
        (True, SOUTH, BUMP, 0),
        (False, SOUTH, GOAL, 1),
        (False, NORTH, BUMP, 0),
    ],
)
def test_the_junction_rewards_the_turn_that_the_cue_said(north, turn, reward, score):
    _, moves = walk(TMaze(2), north, [EAST, EAST, turn])
    assert float(moves[-1].reward) == pytest.approx(reward)
    assert float(moves[-1].score) == score
    assert bool(moves[-1].ended)


def test_a_step_against_a_wall_costs_and_stays():
    for actions in ([WEST], [NORTH], [SOUTH], [EAST, NORTH], [EAST, EAST, EAST]):
        seen, moves = walk(TMaze(2), True, actions)
        assert float(moves[-1].reward) == pytest.approx(BUMP)
        assert seen[-1] == seen[-2]
        assert not bool(moves[-1].ended)


def test_an_episode_ends_when_patience_does():
    _, moves = walk(TMaze(2, patience=3), True, [EAST, WEST] * 3)
    assert [bool(moved.ended) for moved in moves] == [False] * 5 + [True]
    assert float(moves[-1].score) == 0


def test_each_side_is_as_likely():
    states = jax.vmap(TMaze(3).start)(jax.random.split(jax.random.key(0), 2000))
    assert float(states.north.mean()) == pytest.approx(0.5, abs=0.04)
    assert not states.place.any()


# --- the cart-pole ---


def test_the_pole_obeys_its_equations():
    """Energy is kept without a push: kinetic and potential, in small steps."""
    motion = jnp.array([0.1, 0.3, 0.1, -0.2])

    def energy(motion):
        _, v, angle, w = motion
        across, up = v + 0.5 * w * jnp.cos(angle), 0.5 * w * jnp.sin(angle)
        spin = 0.1 * 1.0**2 / 12  # of a rod of 1 m
        kinetic = 1.0 * v**2 + 0.1 * (across**2 + up**2) + spin * w**2
        return kinetic / 2 + 0.1 * 9.8 * 0.5 * jnp.cos(angle)

    change = jnp.vdot(jax.grad(energy)(motion), slopes(motion, 0.0))
    assert float(change) == pytest.approx(0, abs=1e-5)
    pushed = jnp.vdot(jax.grad(energy)(motion), slopes(motion, 10.0))
    assert float(pushed) == pytest.approx(10.0 * 0.3, rel=1e-4)  # force by velocity


def test_velocities_are_seen_only_where_they_are_asked_for():
    state = OnCart(jnp.array([0.3, 1.0, 0.1, -2.0]), jnp.array(7))
    np.testing.assert_allclose(CartPole(velocities=True).observe(state) * SCALES, state.motion)
    hidden = CartPole().observe(state)
    np.testing.assert_allclose(hidden, CartPole(velocities=True).observe(state)[::2])
    still = state._replace(motion=state.motion.at[1::2].set(0.0))
    np.testing.assert_array_equal(CartPole().observe(still), hidden)


@pytest.mark.parametrize(
    ("motion", "time", "reward", "ended"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0, 0, False),
        ([0.0, 0.0, STEEPEST, 1.0], 0, -1, True),
        ([-WIDEST, -1.0, 0.0, 0.0], 0, -1, True),
        ([0.0, 0.0, 0.0, 0.0], 499, 0, True),
    ],
)
def test_a_fall_costs_and_ends(motion, time, reward, ended):
    moved = CartPole().step(OnCart(jnp.array(motion), jnp.array(time)), jnp.array(1))
    assert (float(moved.reward), bool(moved.ended)) == (reward, ended)
    assert float(moved.score) == 1


# --- acting and learning ---


def policy_of(recurrent=True, length=2, patience=2):
    return Policy(TMaze(length, patience), rnnjax.GRU(5), recurrent)


@functools.cache
def rollout(policy, steps=12, batch=6):
    params = acting.initial_params(policy, 0)
    act = jax.jit(functools.partial(acting.act, policy))
    states, seen = [acting.begin(policy, params, jax.random.key(1), batch)], []
    for key in jax.random.split(jax.random.key(2), steps):
        after, step = act(params, states[-1], key)
        states.append(after)
        seen.append(step)
    return params, states, jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)


def test_episodes_follow_each_other_and_scores_are_kept():
    _, states, seen = rollout(policy_of())
    assert seen.begun[0].all()
    np.testing.assert_array_equal(seen.begun[1:], seen.ended[:-1])
    assert seen.ended.any(axis=0).all()  # patience is 4 steps
    cues = seen.xs[..., 0] != seen.xs[..., 2]
    assert cues[seen.begun].all()
    right = (seen.rewards > 1) & seen.ended
    score = jnp.zeros(6)
    for k, state in enumerate(states[1:]):
        score = jnp.where(seen.ended[k], right[k], score)
        np.testing.assert_array_equal(state.last, score)


@pytest.mark.parametrize("recurrent", [True, False])
def test_learning_reads_what_acting_read(recurrent):
    """One scan with resets gives the carries of all the steps, across the ends of episodes."""
    policy = policy_of(recurrent)
    params, states, seen = rollout(policy)
    resets = policy.resets(seen.begun)
    carry, hs = rnnjax.scan(policy.cell, params["cell"], seen.xs, states[0].memory, resets=resets)
    np.testing.assert_allclose(carry, states[-1].memory, atol=tolerance(carry.dtype))
    corridor = (seen.xs[..., 0] == 1) & (seen.xs[..., 2] == 1)
    spread = float(hs[corridor].std(axis=0).max())
    assert spread > 0.01 if recurrent else spread < 1e-6  # all looks the same without memory


def test_a_reset_replaces_the_carry():
    policy = policy_of()
    params = acting.initial_params(policy, 0)
    begun = jnp.array([True, False])
    old = jnp.full((2, 5), 0.7)
    now = acting.begin(policy, params, jax.random.key(0), 2)._replace(memory=old, begun=begun)
    _, memory, _ = acting.look(policy, params, now)
    fresh = acting.look(policy, params, now._replace(memory=0 * old))[1]
    np.testing.assert_array_equal(memory[0], fresh[0])
    assert float(jnp.abs(memory[1] - fresh[1]).max()) > 0.1


def test_advantages_are_those_of_paper_and_pencil():
    weights = Weights(unroll=3, discount=0.5, trace=0.5, entropy=0.0)
    column = lambda *numbers: jnp.array(numbers)[:, None]  # noqa: E731
    rewards, values = column(1.0, 2.0, 4.0), column(1.0, 0.0, 2.0)
    ended = column(False, True, False)
    seen = Seen(None, None, None, rewards, ended)
    found = actor_critic.advantages(weights, seen, values, jnp.array([8.0]))
    # δ = 1 + ½·0 − 1, 2 − 0, 4 + ½·8 − 2;  A_3 = 6, A_2 = 2, A_1 = 0 + ¼·2
    np.testing.assert_allclose(found[:, 0], [0.5, 2.0, 6.0], rtol=1e-6)


def test_a_policy_is_judged_by_one_whole_episode_each():
    """One that always turns north, at the junction as in the corridor, gets nowhere."""
    policy = policy_of(length=1)
    params = acting.initial_params(policy, 0)

    def always(action):
        bias = jnp.zeros(4).at[action].set(9.0)
        return {**params, "actor": {"w": 0 * params["actor"]["w"], "b": bias}}

    assert not acting.evaluate(policy, always(NORTH), jax.random.key(0), 50).any()
    on_cart = Policy(CartPole(), rnnjax.GRU(5))
    params = acting.initial_params(on_cart, 0)
    steps = acting.evaluate(on_cart, params, jax.random.key(0), 50)
    assert 5 < float(steps.min()) <= float(steps.max()) < 200


def test_policies_that_are_compared_have_one_size():
    for options in (control.DEFAULTS["tmaze"], control.DEFAULTS["cartpole"]):
        found = control.policies_of(options)
        sizes = {name: control_results.size_of(policy) for name, policy in found.items()}
        assert sizes["recurrent"] == sizes["feed-forward"]
        assert not found["feed-forward"].recurrent


# --- runs ---


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "control"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        control.command(["--quick", "--save", str(out)])
    return out


def read_scores(out):
    return json.loads((out / control_results.SCORES).read_text())


def test_a_quick_run_remembers_and_feed_forward_is_at_chance(learnt):
    scores = read_scores(learnt)
    means = {name: policy["mean"] for name, policy in scores["policies"].items()}
    assert means["recurrent"] > 0.95
    assert means["feed-forward"] == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 1000))
    picture = imread(learnt / control_results.PICTURE)
    assert picture.std() > 0.05
    lines = (learnt / control_results.CURVES).read_text().splitlines()
    assert lines[0] == "policy,seed,environment_steps,score,entropy"
    assert {line.split(",")[0] for line in lines[1:]} == set(means)


def test_policies_act_again_in_another_maze(learnt, capsys):
    control.command(["--load", str(learnt), "--length", "3"])
    said = capsys.readouterr().out
    assert "right turns in 1,000 new environments" in said
    assert "feed-forward" in said


def test_a_stopped_run_goes_on_to_the_same_scores(learnt, tmp_path, monkeypatch):
    out, fit = tmp_path / "run", training.fit

    def stopped(*arguments, steps, **options):
        fit(*arguments, steps=steps // 2, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            control.command(["--quick", "--out", str(out)])
    control.command(["--resume", "--out", str(out)])
    found, expected = read_scores(out)["policies"], read_scores(learnt)["policies"]
    assert found["recurrent"]["seeds"] == expected["recurrent"]["seeds"]


def test_scores_are_summed_up_seed_by_seed():
    rows = [
        policies.Result("recurrent", k, np.array(s), []) for k, s in enumerate(([1, 0], [1, 1]))
    ]
    found = control_results.summary(rows)
    assert found["seeds"] == {"0": 0.5, "1": 1.0}
    assert (found["mean"], found["sd"]) == (0.75, 0.25)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--length", "0"], "--length: expected a whole number from 1 up; got 0"),
        (["--learning-rate", "nan"], "--learning-rate: expected a number above 0; got nan"),
        (["--discount", "nan"], "--discount: expected a number from 0 to 1; got nan"),
        (["--entropy", "-1"], "--entropy: expected a number from 0 to 1; got -1"),
        (["--task", "cartpole", "--length", "3"], "--length: is for --task tmaze"),
        (["--seed", "-1"], "--seed: expected a number from 0 to 2**31 - 1; got -1"),
        (["--out", "{}"], "also holds 'notes.txt'"),
        (["--load", "{}/none"], "none has none. Train one first: python -m examples.control"),
        (["--resume", "--out", "{}/none"], "none has none. Train one first"),
    ],
)
def test_mistakes_are_one_line_and_status_2(typed, words, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as left:
        control.command([option.format(tmp_path) for option in typed])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert words in error
    assert error.count("\n") == 1


def test_a_run_that_blows_up_is_one_line(tmp_path, monkeypatch, capsys):
    def fit(*arguments, **options):
        raise training.NonFiniteError("step 7: the loss is not finite.", 7)

    monkeypatch.setattr(training, "fit", fit)
    with pytest.raises(SystemExit):
        control.command(["--quick", "--out", str(tmp_path / "run")])
    assert "--learning-rate: step 7: the loss is not finite. Lower" in capsys.readouterr().err


def test_a_run_of_another_example_is_refused(tmp_path, capsys):
    training.fit(
        lambda params, carry, batch, key: (params**2, (carry, {})),
        jnp.ones(()),
        control.optimiser(0.1, 1),
        training.ArrayBatches(np.ones((2, 1)), batch_size=1),
        steps=1,
        key=jax.random.key(0),
        checkpoints=training.Checkpoints(tmp_path / "run", config={"size": 3}),
    )
    for typed in (["--load", str(tmp_path)], ["--resume", "--out", str(tmp_path)]):
        with pytest.raises(SystemExit):
            control.command(typed)
        assert "is one of another example" in capsys.readouterr().err
