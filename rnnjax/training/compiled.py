"""``tbptt_step`` and evaluation as compiled programs, on one device or many."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnjax.array_typing import Carry, PyTree
from rnnjax.training.log import Meter
from rnnjax.training.state import Loss, Metrics, TrainState, tbptt_step

DETERMINISTIC = {
    # Several threads may add up a product in another order from call to call:
    # https://github.com/jax-ml/jax/issues/39741
    "cpu": {"xla_cpu_multi_thread_eigen": False},
    "gpu": {"xla_gpu_deterministic_ops": True},
}


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Rows of each batch split over the devices of one mesh axis, params on all of them.

    Attributes:
        mesh: of devices, ``jax.make_mesh((8,), ("batch",))``.
        axis: its axis that rows are split over.
        batch: a ``PartitionSpec`` for each array of a batch, a pytree prefix; None: the rows are
            the second axis of all, after time.
    """

    mesh: Mesh
    axis: str = "batch"
    batch: Any = None

    def specs(self, batch: PyTree) -> PyTree:
        """Return the ``PartitionSpec`` of each array of a batch."""
        rows = PartitionSpec(None, self.axis) if self.batch is None else self.batch
        return jax.tree.broadcast(rows, batch, is_leaf=lambda a: isinstance(a, PartitionSpec))

    def shardings(self, batch: PyTree) -> PyTree:
        """Return where each array of a batch lies."""
        return jax.tree.map(functools.partial(NamedSharding, self.mesh), self.specs(batch))


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
    if parallel is not None:
        batch = jax.device_put(batch, parallel.shardings(batch))
    return step(loss, optimiser, state, batch, decay=decay, parallel=parallel)


def evaluate(
    loss: Loss,
    params: PyTree,
    batches: Iterable[PyTree],
    carry: Carry = None,
    *,
    deterministic: bool = False,
) -> dict[str, float]:
    """Return the mean loss and metrics over batches, by tokens, without noise.

    The carry passes on from batch to batch; the loss gets no key.

    Raises:
        ValueError: there is no batch, or no token in any.

    Example:
        >>> import jax.numpy as jnp
        >>> def loss(params, carry, batch, key):
        ...     return jnp.mean(batch), (carry, {"tokens": jnp.array(batch.size)})
        >>> evaluate(loss, {}, [jnp.ones(3), jnp.zeros(1)])
        {'loss': 0.75, 'tokens': 4.0}
    """
    score = _jitted_score(deterministic, jax.default_backend())
    meter = Meter()
    for batch in batches:
        value, (carry, metrics) = score(loss, params, carry, batch)
        meter.add(_floats({"loss": value, "finite": True, "parameter_norm": 0.0, **metrics}))
    if not meter.sums.get("weight"):
        raise ValueError(
            "evaluate: batches must hold at least one batch with one token; got none. Is the "
            "validation set empty, or an iterator that was used up before?"
        )
    record = meter.record()
    del record["parameter_norm"]
    return record


def spread(state: TrainState, parallel: DataParallel) -> TrainState:
    """Put a state onto the devices of a mesh: rows of the carry split, the rest on each."""
    specs: Any = _specs(parallel)
    return TrainState(
        *(
            jax.device_put(a, NamedSharding(parallel.mesh, p))
            for a, p in zip(state, specs, strict=True)
        )
    )


def _specs(parallel: DataParallel) -> TrainState:
    whole: Any = PartitionSpec()
    return TrainState(whole, whole, whole, PartitionSpec(parallel.axis), whole, whole)


def _maybe_sharded(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    state: TrainState,
    batch: PyTree,
    *,
    decay: float | None,
    parallel: DataParallel | None,
) -> tuple[TrainState, Metrics]:
    step = functools.partial(tbptt_step, loss, optimiser, decay=decay)
    if parallel is None:
        return step(state, batch)
    specs = _specs(parallel)
    return jax.shard_map(
        functools.partial(step, axis=parallel.axis),
        mesh=parallel.mesh,
        in_specs=(specs, parallel.specs(batch)),
        out_specs=(specs, PartitionSpec()),
    )(state, batch)


@functools.cache
def _jitted(deterministic: bool, backend: str) -> Callable:
    return jax.jit(
        _maybe_sharded,
        static_argnames=("loss", "optimiser", "decay", "parallel"),
        donate_argnames="state",
        compiler_options=DETERMINISTIC.get(backend, {}) if deterministic else None,
    )


@functools.cache
def _jitted_score(deterministic: bool, backend: str) -> Callable:
    return jax.jit(
        lambda loss, params, carry, batch: loss(params, carry, batch, None),
        static_argnums=0,
        compiler_options=DETERMINISTIC.get(backend, {}) if deterministic else None,
    )


def _floats(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
