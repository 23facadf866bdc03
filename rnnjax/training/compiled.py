"""``tbptt_step`` and evaluation as compiled programs, on one device or many."""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnjax.array_typing import Carry, PyTree
from rnnjax.training import state as states
from rnnjax.training.log import Meter
from rnnjax.training.state import Loss, Metrics, TrainState, tbptt_step

DETERMINISTIC = {
    # Several threads may add up a product in another order from call to call:
    # https://github.com/jax-ml/jax/issues/39741
    "cpu": {"xla_cpu_multi_thread_eigen": False},
    "gpu": {"xla_gpu_deterministic_ops": True},
}
_deterministic = contextvars.ContextVar("deterministic", default=False)


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Rows of each batch split over the devices of one mesh axis, params on all of them.

    Attributes:
        mesh: of devices, ``jax.make_mesh((8,), ("batch",))``.
        axis: its axis that rows are split over.
        batch: a ``PartitionSpec`` for each array of a batch, a pytree prefix; None: the rows are
            the second axis, after time, or the only one.
    """

    mesh: Mesh
    axis: str = "batch"
    batch: Any = None

    def specs(self, batch: PyTree) -> PyTree:
        """Return the ``PartitionSpec`` of each array of a batch.

        Raises:
            ValueError: the rows cannot be split evenly over the devices.
        """
        if self.batch is None:
            specs = jax.tree.map(self._usual, batch)
        else:
            specs = jax.tree.broadcast(self.batch, batch, is_leaf=_is_spec)
        jax.tree.map(self._check, batch, specs)
        return specs

    def _usual(self, leaf: Any) -> PartitionSpec:
        rank = np.ndim(leaf)
        return PartitionSpec(*(None,) * (rank > 1), *(self.axis,) * (rank > 0))

    def _check(self, leaf: Any, spec: PartitionSpec) -> None:
        devices = self.mesh.shape[self.axis]
        for size, axis in zip(np.shape(leaf), spec, strict=False):
            if axis == self.axis and size % devices:
                raise ValueError(
                    f"DataParallel: a batch must split evenly over the {devices} devices of the "
                    f"mesh axis {axis!r}; got an array {np.shape(leaf)} to be split as {spec}. "
                    "Change batch_size, or say by batch=… which axis the rows are."
                )


@contextlib.contextmanager
def deterministic_mode(on: bool) -> Iterator[None]:
    """Let ``evaluate`` be deterministic or not inside the body."""
    token = _deterministic.set(on)
    try:
        yield
    finally:
        _deterministic.reset(token)


def compiled_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: PyTree,
    *,
    decay: float | None = None,
    parallel: DataParallel | None = None,
    deterministic: bool = False,
) -> tuple[TrainState, Metrics]:
    """``tbptt_step``, compiled once for the same functions; it takes the memory of ``state``."""
    step = _jitted(deterministic, jax.default_backend())
    if parallel is None:
        return step(loss, optimiser, state, batch, decay=decay)
    specs = parallel.specs(batch)
    shardings = jax.tree.map(functools.partial(NamedSharding, parallel.mesh), specs)
    rows = tuple(jax.tree.leaves(specs, is_leaf=_is_spec))
    split = (parallel.mesh, parallel.axis, rows)
    return step(loss, optimiser, state, jax.device_put(batch, shardings), decay=decay, split=split)


def evaluate(
    loss: Loss,
    params: PyTree,
    batches: Iterable[PyTree],
    carry: Carry = None,
    *,
    deterministic: bool | None = None,
) -> dict[str, float]:
    """Return the mean loss and metrics over batches, by tokens, without noise.

    The carry passes on from batch to batch; the loss gets no key.

    Args:
        loss: the loss, see ``Loss``.
        params: what is scored.
        batches: as many as there are.
        carry: the carry of the first.
        deterministic: as in ``fit``; None: as the run that this is called by, else False.

    Raises:
        ValueError: there is no batch, or no token in any.

    Example:
        >>> import jax.numpy as jnp
        >>> def loss(params, carry, batch, key):
        ...     return jnp.mean(batch), (carry, {"tokens": jnp.array(batch.size)})
        >>> evaluate(loss, {}, [jnp.ones(3), jnp.zeros(1)])
        {'loss': 0.75, 'tokens': 4.0}
    """
    deterministic = _deterministic.get() if deterministic is None else deterministic
    score = _jitted_score(deterministic, jax.default_backend())
    meter = Meter()
    for batch in batches:
        value, (carry, metrics) = score(loss, params, carry, batch)
        if metrics.get("tokens", 1) > 0:  # a mean over nothing is NaN
            meter.add(as_floats({"loss": value, **metrics}))
    if not meter.weight:
        raise ValueError(
            "evaluate: batches must hold at least one batch with one token; got none. Is the "
            "validation set empty, or an iterator that was used up before?"
        )
    return meter.record()


def spread(state: TrainState, parallel: DataParallel) -> TrainState:
    """Put a state onto the devices of a mesh: rows of the carry split, the rest on each."""
    specs: Any = _specs(parallel.axis)
    return TrainState(
        *(
            jax.device_put(a, NamedSharding(parallel.mesh, spec))
            for a, spec in zip(state, specs, strict=True)
        )
    )


def as_floats(metrics: Metrics) -> dict[str, float]:
    """Fetch metrics from the device, all at once."""
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _specs(axis: str) -> TrainState:
    whole: Any = PartitionSpec()
    return TrainState(whole, whole, whole, PartitionSpec(axis), whole, whole)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)


def _step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: PyTree,
    *,
    decay: float | None,
    split: tuple | None = None,
) -> tuple[TrainState, Metrics]:
    step = functools.partial(tbptt_step, loss, optimiser, decay=decay)
    if split is None:
        return step(state, batch)
    mesh, axis, rows = split
    return jax.shard_map(
        functools.partial(step, axis=axis),
        mesh=mesh,
        in_specs=(_specs(axis), jax.tree.unflatten(jax.tree.structure(batch), rows)),
        out_specs=(_specs(axis), PartitionSpec()),
    )(state, batch)


@functools.cache
def _jitted(deterministic: bool, backend: str) -> Callable:
    return jax.jit(
        _step,
        static_argnames=("loss", "optimiser", "decay", "split"),
        donate_argnames="state",
        compiler_options=DETERMINISTIC.get(backend, {}) if deterministic else None,
    )


@functools.cache
def _jitted_score(deterministic: bool, backend: str) -> Callable:
    return jax.jit(
        functools.partial(states.call, key=None),
        static_argnames="loss",
        compiler_options=DETERMINISTIC.get(backend, {}) if deterministic else None,
    )
