"""Control of what is only partly seen: a policy that remembers, beside one that does not.

The T-maze of Bakker (2002) shows at its start, and only there, on which side of a junction so many
steps away the reward lies; the cart-pole shows place and angle, and hides the velocities. Policies
are learnt by advantage actor-critic in thousands of environments side by side, all of them pure
functions of JAX: acting (``rnnjax.step``) and learning (``rnnjax.scan``, with ``resets`` where
episodes begin) are one compiled step, whose carry are the environments.

    recurrent      π(a | x_1 … x_t), by a GRU
    feed-forward   π(a | x_t), by the same network with a carry that is reset at every step; it has
                   as many params and learns from as many steps
    velocities     the same for a cart-pole whose velocities are seen

Without memory one turn in two is right: chance is 50 %. Every policy is learnt from several seeds;
what is scored is one whole episode in each of 1,000 new environments, the likeliest action at each
step.

    python -m examples.control                          T-maze of 20 steps, four minutes on one core
    python -m examples.control --length 50 --unroll 96 --environments 1024 --steps 300
    python -m examples.control --task cartpole
    python -m examples.control --load runs/control --length 40    the same policies, another maze
    python -m examples.control --resume                 go on with a run that was stopped
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import optax
import tyro

import rnnjax
from examples.support import acting, actor_critic, control_results, policies
from examples.support.acting import Policy
from examples.support.actor_critic import Weights
from examples.support.cli import OptionError, at_least_one, blame, parse, positive, run, within
from examples.support.environments import CartPole, TMaze
from examples.support.folders import set_aside
from examples.support.kept import RUN
from examples.support.lines import Lines
from examples.support.memory import Fresh
from examples.support.policies import Result
from rnnjax import training
from rnnjax.initializers import Chrono

PASSING = ("out", "resume", "load")  # not the run's
POINTS = 100  # of a curve
LENGTH = 20


@dataclass(frozen=True)
class Options:
    """Learn to act where not everything is seen, or let policies that were learnt act (--load)."""

    task: Literal["tmaze", "cartpole"] = "tmaze"
    """The T-maze, or the cart-pole."""
    length: int | None = None
    """Steps from the start of the T-maze to its junction; none: 20, or what was learnt (--load)."""
    size: int = 32
    """Hidden units."""
    environments: int = 2048
    """Side by side."""
    unroll: int = 32
    """Steps in each of them between two steps of the optimiser."""
    steps: int = 200
    """Steps of the optimiser, for each policy and seed."""
    learning_rate: float = 0.03
    """Of Adam, at the start; it falls to zero along a line."""
    discount: float = 0.98
    """What a reward is worth a step later."""
    trace: float = 0.95
    """Decay of the trace of generalised advantage estimation; 1: sums of rewards as they come."""
    entropy: float = 0.01
    """Weight of the entropy, which keeps a policy from making up its mind too soon."""
    seeds: int = 3
    """How many times each policy is learnt."""
    quick: bool = False
    """A short maze, a small network and one seed, for seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    load: Path | None = None
    """The folder of a run whose policies are to act in new environments."""
    seed: int = 0
    """The first seed: of weights, of what the environments draw and of the actions."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--save"])] = Path("runs/control")
    """Folder of the run: policies, scores, picture. An earlier one is kept beside as .before."""


CARTPOLE = Options(task="cartpole", environments=1024, steps=300, learning_rate=0.01, discount=0.99)
DEFAULTS = {"tmaze": Options(), "cartpole": CARTPOLE}
QUICK = {
    "tmaze": Options(length=4, size=16, environments=256, steps=120, seeds=1),
    "cartpole": replace(CARTPOLE, size=16, environments=256, steps=120, seeds=1),
}


# --- what takes part ---


def cell_of(options: Options) -> rnnjax.GRU:
    """The memory: as long at the beginning as what it has to bridge, where that is known."""
    if options.task == "cartpole":
        return rnnjax.GRU(options.size)
    span = max(3, 2 * (options.length or LENGTH))
    return rnnjax.GRU(options.size, update_bias=Chrono(span))


def policies_of(options: Options) -> dict[str, Policy]:
    """The policies that are compared, by name."""
    hidden = CartPole() if options.task == "cartpole" else TMaze(options.length or LENGTH)
    found = {
        "recurrent": Policy(hidden, cell_of(options)),
        "feed-forward": Policy(hidden, cell_of(options), recurrent=False),
    }
    if options.task == "cartpole":
        seen = CartPole(velocities=True)
        found["feed-forward, velocities seen"] = Policy(seen, cell_of(options), recurrent=False)
    return found


# --- training ---


@functools.cache
def optimiser(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam behind a clip; its second moments fade soon, as gradients do once walks get straight."""
    schedule = optax.linear_schedule(rate, 0.0, steps)
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule, b2=0.99))


def nothing(generator: Any, size: int) -> tuple:
    """A batch: what is learnt from is in the environments, and these are in the carry."""
    del generator, size
    return ()


def fit(name: str, policy: Policy, seed: int, options: Options) -> training.Fitted:
    """Train one policy; a run that finds its own checkpoints goes on from them.

    Raises:
        OptionError: its params were not finite any more.
    """
    weights = Weights(options.unroll, options.discount, options.trace, options.entropy)
    params = acting.initial_params(policy, seed)
    k_begin, k_act = jax.random.split(jax.random.key(seed))
    config = {"options": lasting(options), "policy": policy, "name": name, "seed": seed}
    every = -(-options.steps // POINTS)
    folder = policies.folder_of(options.out, name, seed)
    try:
        return training.fit(
            actor_critic.loss_of(policy, weights),
            params,
            optimiser(options.learning_rate, options.steps),
            Fresh(nothing, options.environments, seed=seed, what=repr(policy)),
            steps=options.steps,
            key=k_act,
            carry=acting.begin(policy, params, k_begin, options.environments),
            checkpoints=training.Checkpoints(folder, every=10 * every, keep=1, config=config),
            writers=[Lines(options.steps, words_of)],
            log_every=every,
        )
    except training.NonFiniteError as error:
        raise OptionError(f"--learning-rate: {error} Lower {options.learning_rate:g}.") from error


def words_of(record: training.Record) -> str:
    """What a line of progress says."""
    return f"score {record['score']:.3g}  {record['tokens_per_second']:,.0f} steps/s"


def learn(options: Options) -> Iterator[Result]:
    """Train every policy from every seed, and let it act in new environments."""
    for name, policy in policies_of(options).items():
        for seed in range(options.seed, options.seed + options.seeds):
            print(f"{name}, seed {seed}", flush=True)
            fitted = fit(name, policy, seed, options)
            scores = policies.scores(policy, fitted.state.params, seed)
            yield Result(name, seed, scores, fitted.records)


# --- runs ---


def lasting(options: Options) -> dict[str, Any]:
    """The options that make a run what it is."""
    return {name: value for name, value in asdict(options).items() if name not in PASSING}


def train_and_report(options: Options) -> None:
    """Train, compare, and keep what came of it."""
    results = list(learn(options))
    task = control_results.TASKS[options.task]
    control_results.say(task, results)
    control_results.keep(options.out, task, results, policies_of(options), lasting(options))


def begin(options: Options) -> None:
    """Train anew."""
    with blame("--out"):
        set_aside(options.out, (RUN, *control_results.FILES))
    train_and_report(options)


def resume(options: Options) -> None:
    """Go on with a run that was stopped, as it was begun.

    Raises:
        OptionError: there is none, or it is not one of this example.
    """
    with blame("--out"):
        saved = next(policies.load_all(options.out))
    train_and_report(replace(options, **saved.options))


def act_again(options: Options) -> None:
    """Let policies act that were kept.

    Raises:
        OptionError: there are none, or none in a maze.
    """
    assert options.load is not None
    with blame("--load"):
        saved = list(policies.load_all(options.load))
        results = [policies.act_again(each, options.length) for each in saved]
    control_results.say(control_results.TASKS[saved[0].options["task"]], results)


def check(options: Options) -> None:
    """Check what can be checked before anything is compiled.

    Raises:
        OptionError: an option is out of range.
    """
    for name in ("length", "size", "environments", "unroll", "steps", "seeds"):
        at_least_one(name, getattr(options, name))
    positive("learning_rate", options.learning_rate)
    for name in ("discount", "trace", "entropy"):
        within(name, getattr(options, name), 0, 1)
    if not 0 <= options.seed < 2**31:
        raise OptionError(f"--seed: expected a number from 0 to 2**31 - 1; got {options.seed}.")
    if options.length is not None and options.task != "tmaze":
        raise OptionError(f"--length: is for --task tmaze; got --task {options.task}.")


def main(options: Options) -> None:
    """Train, go on training, or act."""
    check(options)
    if options.load:
        return act_again(options)
    try:
        resume(options) if options.resume else begin(options)
    except training.Preempted as stopped:
        print(f"{stopped}; --resume --out {options.out} goes on")
        raise


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; --task and --quick change what other options are."""
    typed = parse(Options(), argv)
    run(main, (QUICK if typed.quick else DEFAULTS)[typed.task], argv)


if __name__ == "__main__":
    command()
