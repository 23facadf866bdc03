"""Forecasting: what comes next in a series, as many trajectories of what may come.

Networks read a series up to y_t and give a distribution of the next change; what is drawn from it
is read as the next input, and so on to the horizon (``rnnjax.step`` with many rows side by side):

    y_{t+1} = y_t + s (μ_t + σ_t ε),    (μ_t, σ_t, ν_t) = head(GRU(x_1 … x_t)),    ε ~ Student(ν_t)

(Salinas et al., "DeepAR", 2020). The median of the trajectories is the forecast, their middle four
fifths the 80 % interval. Gaps are no steps (``mask``).

The series are two that statsmodels has, sunspots by the year and CO₂ on Mauna Loa by the week, with
its gaps, or a CSV file. The last fifth is forecast from rolling origins, beside seasonal naive,
four kinds of exponential smoothing and an autoregression, fitted anew at each origin; the networks
learn as often as ``--parts`` says, for sunspots five times, for CO₂ once. ``--tuning`` scores
the fifth before, as if the series ended with it: so the options were chosen.

    python -m examples.forecasting                              sunspots, a minute on one core
    python -m examples.forecasting --data co2
    python -m examples.forecasting --data FILE.csv --season 12
    python -m examples.forecasting --save runs/co2 --data co2
    python -m examples.forecasting --load runs/co2 FILE.csv     what comes after its end
    python -m examples.forecasting --resume                     go on with a run that was stopped
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import optax
import tyro

from examples.support import forecast_results, forecaster, outlook
from examples.support.cli import (
    OptionError,
    a_seed,
    at_least_one,
    blame,
    parse,
    positive,
    run,
    within,
)
from examples.support.folders import set_aside
from examples.support.forecast_results import Job, Learnt
from examples.support.forecaster import Forecaster, Scale
from examples.support.kept import RUN
from examples.support.lines import Lines
from examples.support.memory import Fresh
from examples.support.series import check_scale, read
from examples.support.stretches import SEASONS, Draws, Known, split
from rnnjax import training

PASSING = ("out", "resume", "load")  # not the run's


@dataclass(frozen=True)
class Options:
    """Learn to forecast a series, or forecast what comes after one (--load)."""

    data: str = "sunspots"
    """sunspots, co2, or a CSV file whose last column is the series."""
    season: int | None = None
    """Steps after which the series comes again; needed for a file."""
    horizon: int | None = None
    """Steps that are forecast; none: a season."""
    every: int = 1
    """Steps between two origins."""
    scale: Scale = "plain"
    """What is forecast: the values, their square roots (counts) or their logarithms (growth)."""
    level: bool = False
    """Show the network the level itself, not only how it changes: for series without a trend."""
    size: int = 32
    """Hidden units of a network."""
    members: int = 5
    """Networks that forecast together."""
    noise: float = 0.2
    """Standard deviation of noise on inputs, which are about 1, while learning."""
    batch: int = 32
    """Stretches of four seasons in a batch."""
    steps: int = 200
    """Steps of the optimiser."""
    learning_rate: float = 3e-3
    """The highest of AdamW; it falls to zero along a cosine."""
    samples: int = 100
    """Trajectories of each network."""
    parts: int = 1
    """How many times the networks learn: the origins are cut into so many parts, and each part is
    forecast by networks that learnt from all that came before it."""
    tuning: bool = False
    """Score the fifth before the last one, as if the series ended there, to choose options on."""
    quick: bool = False
    """Two small networks and few origins, for seconds; other options still count."""
    resume: bool = False
    """Go on with the run in --out, with the options that it was begun with."""
    load: tuple[Path, ...] = ()
    """The folder of a run, then a CSV file to forecast; without one, its own series."""
    seed: int = 0
    """Of the initial weights, what is learnt from and what is drawn."""
    out: Annotated[Path, tyro.conf.arg(aliases=["--save"])] = Path("runs/forecasting")
    """Folder of the run: networks, scores, picture. An earlier one is kept beside as .before."""


SUNSPOTS = Options(season=11, scale="sqrt", level=True, size=16, noise=0.3, parts=5)
CO2 = Options(data="co2", season=52, every=4, size=48)
DEFAULTS = {"sunspots": SUNSPOTS, "co2": CO2}
QUICK = {"size": 8, "members": 2, "batch": 16, "steps": 60, "samples": 50, "learning_rate": 0.01}


# --- training ---


def job_of(options: Options) -> Job:
    """Read the series, cut it, measure it.

    Raises:
        OptionError: it cannot be read, or there is too little of it.
    """
    if options.season is None:
        raise OptionError("--season: expected steps after which the series comes again; got none.")
    with blame("--data"):
        series = read(options.data)
        check_scale(series, options.scale)
        horizon = options.horizon or options.season
        every = 10 * options.every if options.quick else options.every
        cut = split(series, options.season, horizon, every, options.tuning)
    learnt = forecaster.to_scale(options.scale, forecaster.filled(series.values[: cut.stop]))
    units = forecaster.units_of(learnt, options.season)
    sizes = (options.scale, options.level, options.size, options.members)
    model = Forecaster(options.season, units, *sizes)
    return Job(series, model, cut, Draws(horizon, options.samples, options.seed))


@functools.cache
def optimiser(rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, a warm-up and a cosine that ends at nothing."""
    warm_up = min(1 + steps // 20, steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))


def source_of(job: Job, stop: int, options: Options) -> Fresh:
    """Stretches of what came before, drawn anew for each step."""
    known = Known(job.model, job.series.values[:stop])
    draw = functools.partial(known.draw, stop, SEASONS * job.model.season)
    what = f"{job.series.name} before {stop}"
    return Fresh(draw, options.batch, seed=options.seed, what=what)


def fit(job: Job, stop: int, options: Options) -> training.Fitted:
    """Train on what came before; a run that finds its own checkpoints goes on from them."""
    warm_up = job.model.season // 2
    config = {"options": lasting(options), "model": job.model, "draws": tuple(job.draws)}
    every = -(-options.steps // 4)
    folder = options.out / RUN / f"before-{stop:07}"
    return training.fit(
        forecaster.loss_of(job.model, options.noise, warm_up),
        forecaster.initial_params(job.model, options.seed),
        optimiser(options.learning_rate, options.steps),
        source_of(job, stop, options),
        steps=options.steps,
        key=jax.random.key(options.seed),
        checkpoints=training.Checkpoints(folder, every=every, keep=1, config=config),
        writers=[Lines(options.steps, lambda record: f"{record['loss']:.3f} nats a step")],
    )


# --- runs ---


def lasting(options: Options) -> dict[str, Any]:
    """The options that make a run what it is."""
    return {name: value for name, value in asdict(options).items() if name not in PASSING}


def learn(job: Job, options: Options) -> Iterator[Learnt]:
    """Train for each part of the origins."""
    for origins in np.array_split(job.split.origins, min(options.parts, len(job.split.origins))):
        stop = int(origins[0]) + 1
        fitted = fit(job, stop, options)
        seconds = fitted.records[-1]["seconds"]
        print(f"{job.series.name} before value {stop}: {options.steps} steps in {seconds:.0f} s")
        yield Learnt(origins, fitted.state.params, seconds)


def train_and_report(job: Job, options: Options) -> None:
    """Train, forecast beside the baselines, say what came of it, and keep it."""
    learnt = list(learn(job, options))
    results = forecast_results.compare(job, learnt)
    forecast_results.say(results)
    seconds = sum(part.seconds for part in learnt)
    forecast_results.keep(options.out, job, results, lasting(options), seconds)


def begin(options: Options) -> None:
    """Train anew."""
    job = job_of(options)
    with blame("--out"):
        set_aside(options.out, (RUN, *forecast_results.FILES))
    train_and_report(job, options)


def resume(options: Options) -> None:
    """Go on with a run that was stopped, as it was begun.

    Raises:
        OptionError: there is none, or it is not one of this example.
    """
    with blame("--out"):
        options = replace(options, **outlook.load(options.out).options)
    train_and_report(job_of(options), options)


def look_ahead(options: Options) -> None:
    """Forecast what comes after the end of a series.

    Raises:
        OptionError: there is no run, or no series that goes with it.
    """
    folder, *files = options.load
    if len(files) > 1:
        raise OptionError(f"--load: expected a folder and one file; got {len(files)} files.")
    with blame("--load"):
        saved = outlook.load(folder)
        series = read(str(files[0]) if files else saved.options["data"])
        outlook.say(saved, series)


def check(options: Options) -> None:
    """Check what needs no data.

    Raises:
        OptionError: an option is out of range.
    """
    for name in ("every", "parts", "size", "members", "batch", "steps", "samples", "horizon"):
        at_least_one(name, getattr(options, name))
    positive("learning_rate", options.learning_rate)
    if options.season is not None and options.season < 2:
        raise OptionError(f"--season: expected at least 2 steps; got {options.season}.")
    within("noise", options.noise, 0, 10)
    a_seed(options.seed)


def main(options: Options) -> None:
    """Train, go on training, or look ahead."""
    check(options)
    if options.load:
        return look_ahead(options)
    try:
        resume(options) if options.resume else begin(options)
    except training.Preempted as stopped:
        print(f"{stopped}; --resume --out {options.out} goes on")
        raise


def command(argv: Sequence[str] | None = None) -> None:
    """Run the command line; --data and --quick change what other options are."""
    typed = parse(Options(), argv)
    default = DEFAULTS.get(typed.data, Options(data=typed.data))
    run(main, replace(default, **QUICK) if typed.quick else default, argv)


if __name__ == "__main__":
    command()
