"""Sources of batches that a run can go on from: seeded, and with a position that is saved.

A source is anything whose iterators yield batches and have Grain's two methods,

    iterator.get_state()        what json can write: where the next batch comes from
    iterator.set_state(state)   go on from there, with the same batches,

so a Grain dataset is one as it stands (``grain.MapDataset … .to_iter_dataset()``). Those here are
for arrays that fit into memory: each batch is a function of the seed and its number alone.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnnjax import checks
from rnnjax.array_typing import PyTree


@runtime_checkable
class BatchIterator(Protocol):
    """What the iterator of a source offers."""

    def __next__(self) -> PyTree:
        """Return the next batch."""
        ...

    def get_state(self) -> Any:
        """Return where the next batch comes from, as ``json`` can write it."""
        ...

    def set_state(self, state: Any) -> None:
        """Go on from a state that ``get_state`` returned."""
        ...


class Source(abc.ABC):
    """Endless batches by number: epoch after epoch, each of ``len(source)`` batches."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Batches an epoch."""

    @abc.abstractmethod
    def batch(self, epoch: int, number: int) -> PyTree:
        """Return one batch of an epoch."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the data, the seed and the sizes."""

    def __iter__(self) -> "Position":
        return Position(self)


class Position:
    """An iterator over a source that knows where it stands."""

    def __init__(self, source: Source):
        self._source, self._next = source, 0

    def __iter__(self) -> "Position":
        return self

    def __next__(self) -> PyTree:
        epoch, number = divmod(self._next, len(self._source))
        self._next += 1
        return self._source.batch(epoch, number)

    def get_state(self) -> dict[str, Any]:
        """Return the number of the next batch, and what data it is of."""
        return {"next": self._next, "data": self._source.fingerprint()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            ValueError: it is one in other data.
        """
        data = state.get("data") if isinstance(state, dict) else None
        if data != self._source.fingerprint():
            raise ValueError(
                f"the position is one in other data, or in batches of other sizes or seed: hash "
                f"{str(data)[:12]}…, here {self._source.fingerprint()[:12]}…. Resume with the "
                "data of the run, or begin a new one in another folder."
            )
        self._next = state["next"]


class ArrayBatches(Source):
    """Arrays of n examples in shuffled batches: each example at most once an epoch.

    The order is drawn anew in each epoch; the last n mod B of it are left out.

    Args:
        arrays: a pytree of arrays.
        batch_size: B.
        in_axes: which axis of each array counts the examples, an int or a pytree prefix of ints as
            in ``jax.vmap``: 1 for series (T, n, D).
        seed: of the order.
        shuffle: False keeps the order of the arrays.

    Raises:
        TypeError: ``batch_size`` is no int.
        ValueError: arrays of different lengths, or fewer examples than a batch has.

    Example:
        >>> source = ArrayBatches({"x": np.arange(6).reshape(1, 6), "y": np.arange(6)}, 2,
        ...     in_axes={"x": 1, "y": 0})
        >>> batch = next(iter(source))
        >>> batch["x"].shape, (batch["x"][0] == batch["y"]).all().item()
        ((1, 2), True)
    """

    def __init__(
        self,
        arrays: PyTree,
        batch_size: int,
        *,
        in_axes: Any = 0,
        seed: int = 0,
        shuffle: bool = True,
    ):
        checks.positive_int("ArrayBatches", "batch_size", batch_size)
        self._arrays = jax.tree.map(np.asarray, arrays)
        self._axes = jax.tree.broadcast(in_axes, self._arrays)
        self._size, self._shuffle, self._orders = batch_size, shuffle, _Orders(seed)
        pairs = zip(jax.tree.leaves(self._arrays), jax.tree.leaves(self._axes), strict=True)
        counts = {_count(array, axis) for array, axis in pairs}
        if len(counts) != 1:
            raise ValueError(
                f"ArrayBatches: arrays must have the same number of examples along in_axes; got "
                f"{sorted(counts)}."
            )
        self._count = counts.pop()
        if self._count < batch_size:
            raise ValueError(
                f"ArrayBatches: batch_size must be at most the number of examples, "
                f"{self._count}; got {batch_size}."
            )
        self._fingerprint = _hash("arrays", batch_size, seed, shuffle, self._axes, self._arrays)

    def __len__(self) -> int:
        return self._count // self._size

    def batch(self, epoch: int, number: int) -> PyTree:
        """Return one batch of an epoch."""
        index = np.arange(number * self._size, (number + 1) * self._size)
        return self._take(self._orders.of(self._count, epoch)[index] if self._shuffle else index)

    def once(self) -> Iterator[PyTree]:
        """Yield every example once and in order, for evaluation; the last batch may be smaller."""
        for start in range(0, self._count, self._size):
            yield self._take(np.arange(start, min(start + self._size, self._count)))

    def fingerprint(self) -> str:
        """Return a hash of the arrays, the seed and the sizes."""
        return self._fingerprint

    def _take(self, index: NDArray) -> PyTree:
        return jax.tree.map(lambda a, axis: np.take(a, index, axis), self._arrays, self._axes)


class Chunk(NamedTuple):
    """T steps of B contiguous rows of text."""

    inputs: NDArray[np.int32]  # (T, B)
    targets: NDArray[np.int32]  # (T, B), the input one step later
    resets: NDArray[np.bool_]  # (T, B), True where a document begins


class TokenStreams(Source):
    """One long text in B contiguous rows, T steps at a time, for truncated backpropagation.

    With tokens x_0 … x_{n−1} and L = ⌊(n − 1) / B⌋,

        inputs[t, b] = x_{bL + t},    targets[t, b] = x_{bL + t + 1},

    so a row goes on from where the one before ends, and the carry handed from chunk to chunk is
    that of the same text (Mikolov et al., "Recurrent neural network based language model",
    Interspeech 2010). At the beginning of an epoch all rows are reset; the last L mod T steps are
    left out.

    Args:
        tokens: (n,) integers.
        batch_size: B.
        chunk: T.
        starts: (n,) bool, True where a document begins; None: all is one document.

    Raises:
        TypeError: sizes that are no ints, tokens that are no integers.
        ValueError: shapes that differ, or fewer than B·T + 1 tokens.

    Example:
        >>> chunk = next(iter(TokenStreams(np.arange(7), batch_size=2, chunk=3)))
        >>> chunk.inputs.T.tolist(), chunk.targets.T.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """

    def __init__(
        self,
        tokens: ArrayLike,
        *,
        batch_size: int,
        chunk: int,
        starts: ArrayLike | None = None,
    ):
        checks.positive_int("TokenStreams", "batch_size", batch_size)
        checks.positive_int("TokenStreams", "chunk", chunk)
        tokens = np.asarray(tokens)
        starts = np.zeros(tokens.shape, bool) if starts is None else np.asarray(starts, bool)
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise TypeError(
                f"TokenStreams: tokens must be (n,) integers; got {tokens.shape} {tokens.dtype}."
            )
        if starts.shape != tokens.shape:
            raise ValueError(
                f"TokenStreams: starts must be (n,) = {tokens.shape} as tokens are; got "
                f"{starts.shape}."
            )
        if len(tokens) <= batch_size * chunk:
            raise ValueError(
                f"TokenStreams: {batch_size} rows of {chunk} steps need at least "
                f"{batch_size * chunk + 1} tokens; got {len(tokens)}. Give a longer text, or lower "
                "batch_size or chunk."
            )
        self._chunk = chunk
        self._rows = _rows(tokens.astype(np.int32), starts, batch_size)
        self._fingerprint = _hash("streams", chunk, self._rows)

    def __len__(self) -> int:
        return len(self._rows.inputs) // self._chunk

    def batch(self, epoch: int, number: int) -> Chunk:
        """Return one chunk, the same in every epoch."""
        del epoch
        return self._steps(number * self._chunk)

    def once(self) -> Iterator[Chunk]:
        """Yield all L steps once, for evaluation; the last chunk may be shorter."""
        for start in range(0, len(self._rows.inputs), self._chunk):
            yield self._steps(start)

    def _steps(self, start: int) -> Chunk:
        return jax.tree.map(lambda leaf: leaf[start : start + self._chunk], self._rows)

    def fingerprint(self) -> str:
        """Return a hash of the tokens and the sizes."""
        return self._fingerprint


class Padded(NamedTuple):
    """Sequences of different lengths, padded at the end with zeros."""

    values: NDArray  # (T, B, …)
    lengths: NDArray[np.int32]  # (B,), 0 in a row that only fills the batch


class Buckets(Source):
    """Sequences of different lengths in batches of few shapes, so that few programs are compiled.

    A sequence goes into the first bucket that its length fits in, is padded to the bucket's, and
    stands in one batch an epoch. Both the sequences within a bucket and the order of the batches
    are shuffled. A bucket's last batch is filled with rows of length 0, which a mean over
    unpadded steps does not see; so nothing is left out.

    Args:
        fields: by name, n sequences each, arrays that lead with their own time; those of ``by``
            choose the bucket, the others are padded to the longest that the bucket holds.
        boundaries: ascending lengths, the last at least that of the longest sequence.
        batch_size: B, one for all buckets or one for each: fewer rows where they are longer.
        by: the field whose lengths count; the first.
        seed: of the order.

    Raises:
        TypeError: sizes that are no ints.
        ValueError: no sequences, fields of different n, boundaries that do not ascend or do not
            reach the longest sequence, sizes that are not one a bucket.

    Example:
        >>> words = [np.ones(n, np.int32) for n in (1, 2, 3, 7)]
        >>> source = Buckets({"words": words}, boundaries=(3, 8), batch_size=2)
        >>> source.shapes
        {3: (3, 2), 8: (8, 2)}
        >>> len(source), sum(int((batch["words"].lengths > 0).sum()) for batch in source.once())
        (3, 4)
    """

    def __init__(
        self,
        fields: Mapping[str, Sequence[ArrayLike]],
        *,
        boundaries: Sequence[int],
        batch_size: int | Sequence[int],
        by: str | None = None,
        seed: int = 0,
    ):
        by = next(iter(fields), "") if by is None else by
        _check_fields(fields, by)
        self._fields = {name: _of_one_dtype(sequences) for name, sequences in fields.items()}
        boundaries = tuple(boundaries)
        sizes: Any = (
            batch_size if isinstance(batch_size, Sequence) else [batch_size] * len(boundaries)
        )
        lengths = np.array([len(sequence) for sequence in self._fields[by]])
        _check_buckets(boundaries, sizes, int(lengths.max()))
        bucket = np.searchsorted(np.asarray(boundaries), lengths)
        members = [np.flatnonzero(bucket == k) for k in range(len(boundaries))]
        self._buckets = [
            _Bucket(at, size, self._widths(at, by, boundary))
            for at, size, boundary in zip(members, sizes, boundaries, strict=True)
            if len(at)
        ]
        self.shapes = {
            bucket.widths[by]: (bucket.widths[by], bucket.size) for bucket in self._buckets
        }
        self._orders = _Orders(seed)
        self._fingerprint = _hash("buckets", by, boundaries, sizes, seed, self._fields)

    def __len__(self) -> int:
        return sum(bucket.batches for bucket in self._buckets)

    def batch(self, epoch: int, number: int) -> dict[str, Padded]:
        """Return one batch of an epoch."""
        numbered = [(k, i) for k, one in enumerate(self._buckets) for i in range(one.batches)]
        k, i = numbered[self._orders.of(len(numbered), epoch)[number]]
        bucket = self._buckets[k]
        order = self._orders.of(len(bucket.members), epoch, k + 1)
        return self._pad(bucket, bucket.members[order[i * bucket.size : (i + 1) * bucket.size]])

    def once(self) -> Iterator[dict[str, Padded]]:
        """Yield every sequence once, for evaluation."""
        for bucket in self._buckets:
            for start in range(0, len(bucket.members), bucket.size):
                yield self._pad(bucket, bucket.members[start : start + bucket.size])

    def fingerprint(self) -> str:
        """Return a hash of the sequences, the seed and the sizes."""
        return self._fingerprint

    def _widths(self, at: NDArray, by: str, boundary: int) -> dict[str, int]:
        """How long each field is padded, for the sequences of one bucket."""
        longest = {
            name: max((len(sequences[i]) for i in at), default=0)
            for name, sequences in self._fields.items()
        }
        return {**longest, by: int(boundary)}

    def _pad(self, bucket: "_Bucket", at: NDArray) -> dict[str, Padded]:
        return {
            name: _padded([sequences[i] for i in at], bucket.widths[name], bucket.size)
            for name, sequences in self._fields.items()
        }


class _Bucket(NamedTuple):
    members: NDArray  # indices of its sequences
    size: int  # B
    widths: dict[str, int]  # T of each field

    @property
    def batches(self) -> int:
        return -(-len(self.members) // self.size)


def _rows(tokens: NDArray, starts: NDArray, batch: int) -> Chunk:
    used = (len(tokens) - 1) // batch * batch
    inputs, targets = _time_major(tokens[:used], batch), _time_major(tokens[1 : used + 1], batch)
    rows = Chunk(inputs, targets, _time_major(starts[:used], batch))
    rows.resets[0] = True
    return rows


def _time_major(row: NDArray, batch: int) -> NDArray:
    return np.array(row.reshape(batch, -1).T, order="C")  # (L, B), a copy


def _of_one_dtype(sequences: Sequence[ArrayLike]) -> list[NDArray]:
    arrays = [np.asarray(sequence) for sequence in sequences]
    # An empty list says nothing of its dtype.
    dtypes = {a.dtype for a in arrays if a.size} or {a.dtype for a in arrays}
    dtype = np.result_type(*dtypes)  # once, not for each array
    return [a.astype(dtype) for a in arrays]


def _padded(sequences: list[NDArray], width: int, rows: int) -> Padded:
    values = np.zeros((width, rows, *sequences[0].shape[1:]), sequences[0].dtype)
    lengths = np.zeros(rows, np.int32)
    for row, sequence in enumerate(sequences):
        values[: len(sequence), row] = sequence
        lengths[row] = len(sequence)
    return Padded(values, lengths)


class _Orders:
    """Seeded permutations; those of one epoch are kept."""

    def __init__(self, seed: int):
        self._seed, self._epoch = seed, -1
        self._kept: dict[int, NDArray] = {}

    def of(self, count: int, epoch: int, part: int = 0) -> NDArray:
        """Return the order of so many things in one epoch, for one of several parts."""
        if epoch != self._epoch:
            self._epoch, self._kept = epoch, {}
        if part not in self._kept:
            draw = np.random.default_rng((self._seed, epoch, part))
            self._kept[part] = draw.permutation(count)
        return self._kept[part]


def _count(array: NDArray, axis: int) -> int:
    if array.ndim <= axis:
        raise ValueError(
            f"ArrayBatches: arrays must have the axis {axis} of in_axes, which counts examples; "
            f"got an array {array.shape}. Make one array of a list: np.array(…)."
        )
    return array.shape[axis]


def _hash(*parts: Any) -> str:
    """A hash of sizes and arrays: structure, shapes, dtypes and contents."""
    digest = sha256(str(jax.tree.structure(parts)).encode())
    for leaf in jax.tree.leaves(parts):
        array = np.asarray(leaf)
        if array.dtype == object:
            raise TypeError(f"data must be arrays of numbers; got {leaf!r}.")
        digest.update(f"{array.shape} {array.dtype} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check_fields(fields: Mapping[str, Sequence], by: str) -> None:
    if by not in fields:
        raise ValueError(f"Buckets: by must name one of the fields, {sorted(fields)}; got {by!r}.")
    counts = {name: len(sequences) for name, sequences in fields.items()}
    if len(set(counts.values())) != 1 or not counts[by]:
        raise ValueError(
            f"Buckets: fields must hold one sequence each for n ≥ 1 examples; got {counts}."
        )


def _check_buckets(boundaries: tuple[int, ...], sizes: list, longest: int) -> None:
    for boundary in boundaries:
        checks.positive_int("Buckets", "boundaries", boundary)
    for size in sizes:
        checks.positive_int("Buckets", "batch_size", size)
    if list(boundaries) != sorted(set(boundaries)) or not boundaries:
        raise ValueError(f"Buckets: boundaries must ascend; got {boundaries}.")
    if len(sizes) != len(boundaries):
        raise ValueError(
            f"Buckets: batch_size must be one int, or one for each of the {len(boundaries)} "
            f"boundaries; got {len(sizes)}."
        )
    if boundaries[-1] < longest:
        raise ValueError(
            f"Buckets: boundaries must reach the longest sequence, {longest}; the last is "
            f"{boundaries[-1]}. Add one, or leave longer sequences out."
        )
