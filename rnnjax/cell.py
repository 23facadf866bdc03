"""The contract: a cell is a pure function of one example and one time step."""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.array_typing import Array, Carry, DTypeLike, InDim, Key, Params, PyTree


class Keyed(NamedTuple):
    """An input with the key of its noise; both lead with the axes (T, B) in ``rnnjax.scan``."""

    x: PyTree
    key: Key


class Gated(NamedTuple):
    """One recurrent product, then an update: h' = update(params, h, u, mix(params, hidden(h), u)).

    ``mix`` is linear in the hidden vector and holds every recurrent kernel.
    """

    hidden: Callable[[Carry], PyTree]
    mix: Callable[[Params, PyTree, PyTree], PyTree]
    update: Callable[[Params, Carry, PyTree, PyTree], Carry]


class Operator(NamedTuple):
    """An associative operator of a cell's own.

    ``combine(element(params, u_1), element(params, u_2))`` is the element of both steps in a row;
    ``apply(e, carry)`` takes all the steps that e stands for.
    """

    element: Callable[[Params, PyTree], PyTree]
    combine: Callable[[PyTree, PyTree], PyTree]
    apply: Callable[[PyTree, Carry], Carry]


class Cell(abc.ABC):
    """One step of a recurrence, written for one example: no batch axis, no time axis.

    h_t = step(params, h_{t−1}, encode(params, x_t)),  y_t = readout(params, h_t, u_t)

    A cell is a frozen dataclass of hyperparameters. It is registered as a static pytree node, so it
    passes through ``jax.jit`` and ``jax.vmap`` as a plain argument, and an equal cell that is built
    anew never compiles again. Arrays live in ``params``, a dict; the carry is any pytree. What the
    caller passes as ``context`` stands in ``params["context"]`` in every method but ``init``.

    ``rnnjax.testing.check_cell`` tests a cell against this contract.

    Attributes:
        affine: the step is affine in the carry (a complex one is holomorphic in it).
        elementwise: each entry of the next carry depends on the carry only through the same entry
            of the same leaf.
        noisy: ``encode`` reads the pair ``Keyed(x, key)`` when the caller passes keys.

    Example:
        >>> import dataclasses, jax, jax.numpy as jnp, rnnjax
        >>> @dataclasses.dataclass(frozen=True)
        ... class Leaky(rnnjax.Cell):
        ...     rate: float
        ...     affine = elementwise = True
        ...     def init(self, key, in_dim):
        ...         return {}
        ...     def initial_carry(self, params):
        ...         return jnp.zeros(())
        ...     def step(self, params, h, u):
        ...         return self.rate * h + (1 - self.rate) * u
        >>> h, ys = rnnjax.scan(Leaky(0.5), {}, jnp.ones((3, 1)))
        >>> ys[:, 0].tolist()
        [0.5, 0.75, 0.875]
    """

    affine: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    noisy: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_static(cls)

    @abc.abstractmethod
    def init(self, key: Key, in_dim: InDim) -> Params:
        """Draw the parameters for inputs of shape ``in_dim``."""

    @abc.abstractmethod
    def initial_carry(self, params: Params) -> Carry:
        """Return h_0, the carry before the first step and after a reset."""

    @abc.abstractmethod
    def step(self, params: Params, carry: Carry, u: PyTree) -> Carry:
        """Return the next carry: the only recurrent part, deterministic given u."""

    def encode(self, params: Params, x: PyTree) -> PyTree:
        """Map the input x_t to u_t, independently of the carry; so it can run for all T at once."""
        del params
        return x

    def readout(self, params: Params, carry: Carry, u: PyTree) -> PyTree:
        """Map the carry h_t to the output y_t; so it can run for all T at once."""
        del params, u
        return carry

    def gates(self, params: Params, carry: Carry, u: PyTree) -> dict[str, Array]:
        """Return the gate activations of the step that leaves ``carry``, by name; {}: no gates."""
        del params, carry, u
        return {}

    def gated(self) -> Gated | None:
        """Return the cell as one product and an update, or None where it is not of that form."""
        return None

    def operator(self) -> Operator | None:
        """Return the cell's own associative operator, or None."""
        return None

    def layers(self) -> "tuple[Cell, ...] | None":
        """Return the cells of a stack that may run one by one, or None."""
        return None

    def input_shapes(self, params: Params) -> PyTree | None:
        """Return the ``jax.ShapeDtypeStruct`` of one x_t that ``params`` were made for, for checks.

        None, the default, says nothing: such an input is checked by tracing one step.
        """
        del params
        return None

    def sequence_noise(self, key: Key, params: Params) -> dict[str, PyTree]:
        """Draw what one sequence keeps from its first step to its last, as context entries."""
        del key, params
        return {}

    def context_shapes(self) -> dict[str, PyTree]:
        """Return the ``jax.ShapeDtypeStruct`` of one row of each context entry that the cell reads.

        Ranks and dtypes are promises; sizes are examples, because an encoder's length varies.
        """
        return {}


class GatedCell(Cell):
    """One recurrent product, then an update: h' = update(params, h, u, mix(params, hidden(h), u)).

    By default ``hidden`` is the carry and the product is ``hidden @ params["w_h"]``, one dense
    matrix (N, G·N). Writing a cell so is what earns it the fast ways of running.
    """

    @abc.abstractmethod
    def update(self, params: Params, carry: Carry, u: PyTree, r: PyTree) -> Carry:
        """Return the next carry from the encoded input u and the recurrent product r."""

    def hidden(self, carry: Carry) -> PyTree:
        """Return the part of the carry that the recurrent product reads."""
        return carry

    def recurrent_kernel(self, params: Params) -> Array:
        """Return the matrix (N, G·N) of the recurrent product."""
        return params["w_h"]

    def mix(self, params: Params, h: PyTree, u: PyTree) -> PyTree:
        """Return the recurrent product r, linear in h."""
        del u
        return product(h, self.recurrent_kernel(params))

    def gated(self) -> Gated:
        """Return (hidden, mix, update)."""
        return Gated(self.hidden, self.mix, self.update)

    def step(self, params: Params, carry: Carry, u: PyTree) -> Carry:
        """Take one step: the product, then the update."""
        return self.update(params, carry, u, self.mix(params, self.hidden(carry), u))


def carry_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Return the dtype in which a carry is kept: at least float32, whatever computes it.

    Example:
        >>> carry_dtype("bfloat16"), carry_dtype("float64")
        (dtype('float32'), dtype('float64'))
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def product(x: Array, kernel: Array) -> Array:
    """Multiply in the kernel's dtype and accumulate in at least float32: (N,) @ (N, M) → (M,)."""
    wide = carry_dtype(kernel.dtype)
    return jnp.dot(x.astype(kernel.dtype), kernel, preferred_element_type=wide)


def feed(cell: Cell, x: PyTree) -> PyTree:
    """Return what ``cell.encode`` reads of x: only a noisy cell sees the key."""
    return x.x if isinstance(x, Keyed) and not cell.noisy else x


def hand_down(params: Params, inner: Params) -> Params:
    """Return the params of a cell inside, with the context of the cell around it."""
    return {**inner, "context": params["context"]} if "context" in params else inner


def with_context(params: Params, context: dict[str, PyTree] | None) -> Params:
    """Return the params as a cell's methods read them: the context, if any, beside the leaves."""
    return {**params, "context": context} if context else params


def one_step(cell: Cell, params: Params, carry: Carry, x: PyTree) -> tuple[Carry, PyTree]:
    """Take one step of one row, without mask or reset: (h, x) → (h', y)."""
    u = cell.encode(params, feed(cell, x))
    carry = cell.step(params, carry, u)
    return carry, cell.readout(params, carry, u)


class RowShapes(NamedTuple):
    """What one step of one row takes and gives, as ``jax.ShapeDtypeStruct``."""

    carry: Carry
    next_carry: Carry
    y: PyTree


def row_shapes(cell: Cell, params: Params, x: PyTree) -> RowShapes:
    """Trace one step for one row, without computing it: from h_0 over x to (h_0, h_1, y_1).

    ``params`` (the row's context in it) and ``x`` are pytrees of anything with shape and dtype.
    """
    leaves, structure = jax.tree.flatten((params, x))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _row_shapes(cell, structure, shapes, jax.dtypes.canonicalize_dtype(float))


@functools.lru_cache(maxsize=1024)
def _row_shapes(cell: Cell, structure: Any, leaves: tuple, default_dtype: Any) -> RowShapes:
    del default_dtype  # A cell may draw in it, so what is cached depends on it.
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves]
    return jax.eval_shape(
        functools.partial(_first_step, cell), *jax.tree.unflatten(structure, structs)
    )


def _first_step(cell: Cell, params: Params, x: PyTree) -> RowShapes:
    carry = cell.initial_carry(params)
    return RowShapes(carry, *one_step(cell, params, carry, x))
