"""``check_cell`` names what is broken: each cell here breaks one promise."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.testing import ContractError, check_cell


@dataclasses.dataclass(frozen=True)
class Decay(rnnjax.Cell):
    """h' = tanh(w) ⊙ h + u; affine and elementwise, and true to the contract."""

    size: int = 3

    affine: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def init(self, key, in_dim):
        return {"w": jax.random.normal(key, (self.size,))}

    def initial_carry(self, params):
        return jnp.zeros((self.size,))

    def step(self, params, carry, u):
        return jnp.tanh(params["w"]) * carry + u

    def operator(self):
        def combine(a, b):
            return a[0] * b[0], b[0] * a[1] + b[1]

        return rnnjax.Operator(
            element=lambda params, u: (jnp.tanh(params["w"]), u),
            combine=combine,
            apply=lambda e, carry: e[0] * carry + e[1],
        )


def test_a_cell_that_keeps_the_contract_passes():
    check_cell(Decay(), jax.random.key(0), 3)


class NoDataclass(rnnjax.Cell):
    def init(self, key, in_dim):
        return {}

    def initial_carry(self, params):
        return jnp.zeros((3,))

    def step(self, params, carry, u):
        return carry + u


@dataclasses.dataclass(frozen=True)
class HoldsAnArray(Decay):
    w: object = dataclasses.field(default_factory=lambda: jnp.ones((3,)))


@dataclasses.dataclass(frozen=True)
class ReturnsAList(Decay):
    def init(self, key, in_dim):
        return [1.0]


@dataclasses.dataclass(frozen=True)
class DrawsWithoutAKey(Decay):
    def init(self, key, in_dim):
        CALLS.append(None)
        return {"w": jnp.full((3,), float(len(CALLS)))}


CALLS: list[None] = []


@dataclasses.dataclass(frozen=True)
class ChangesDtype(Decay):
    def step(self, params, carry, u):
        return super().step(params, carry, u).astype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class NarrowCarry(Decay):
    def initial_carry(self, params):
        return jnp.zeros((3,), jnp.bfloat16)

    def step(self, params, carry, u):
        return super().step(params, carry.astype(jnp.float32), u).astype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class CountsItsSteps(Decay):
    def step(self, params, carry, u):
        CALLS.append(None)
        return super().step(params, carry, u) + len(CALLS)


@dataclasses.dataclass(frozen=True)
class NotFiniteAtZero(Decay):
    def encode(self, params, x):
        return jnp.sqrt(jnp.abs(x))


@dataclasses.dataclass(frozen=True)
class NotAffine(Decay):
    def step(self, params, carry, u):
        return jnp.tanh(super().step(params, carry, u))


@dataclasses.dataclass(frozen=True)
class NotElementwise(Decay):
    def step(self, params, carry, u):
        return super().step(params, carry[::-1], u)


@dataclasses.dataclass(frozen=True)
class WrongOperator(Decay):
    def operator(self):
        return super().operator()._replace(combine=lambda a, b: (a[0] * b[0], a[1] + b[1]))


@dataclasses.dataclass(frozen=True)
class NotAssociative(Decay):
    def operator(self):
        return super().operator()._replace(combine=lambda a, b: (a[0] - b[0], a[1] + b[1]))


@dataclasses.dataclass(frozen=True)
class BendsOneEntry(Decay):
    """Two leaves, one entry of one of them bent."""

    def initial_carry(self, params):
        return {"a": jnp.zeros((3,)), "b": jnp.zeros((3,))}

    def step(self, params, carry, u):
        b = carry["b"]
        return {"a": 0.5 * carry["a"] + u, "b": b.at[2].set(b[2] ** 2)}

    def operator(self):
        return None


@dataclasses.dataclass(frozen=True)
class NotHolomorphic(Decay):
    def initial_carry(self, params):
        return jnp.zeros((3,), jnp.complex64)

    def step(self, params, carry, u):
        return 0.5 * jnp.conj(carry) + u.astype(carry.dtype)

    def operator(self):
        return None


@dataclasses.dataclass(frozen=True)
class WrongGates(Decay):
    def gates(self, params, carry, u):
        return {"f": jnp.log(-jnp.ones((3,)))}


@dataclasses.dataclass(frozen=True)
class BiasInMix(rnnjax.GatedCell):
    def init(self, key, in_dim):
        return {"w_h": jax.random.normal(key, (3, 3)), "b": jnp.ones((3,))}

    def initial_carry(self, params):
        return jnp.zeros((3,))

    def mix(self, params, h, u):
        return super().mix(params, h, u) + params["b"]

    def update(self, params, carry, u, r):
        return jnp.tanh(u + r)


@dataclasses.dataclass(frozen=True)
class StepBesideUpdate(BiasInMix):
    def mix(self, params, h, u):
        return rnnjax.product(h, params["w_h"])

    def step(self, params, carry, u):
        return super().step(params, carry, u) + 1.0


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (NoDataclass, "frozen dataclass"),
        (HoldsAnArray, "arrays belong in params"),
        (ReturnsAList, "must return a dict"),
        (DrawsWithoutAKey, "depend on its key alone"),
        (ChangesDtype, "must keep carry"),
        (NarrowCarry, "at least float32"),
        (CountsItsSteps, "same step for the same arguments"),
        (NotFiniteAtZero, "finite gradients at x = 0"),
        (NotAffine, r"claims affine.* the slope of its entry carry\[\d\] changes"),
        (BendsOneEntry, r"claims affine.* its entry carry\['b'\]\[2\] changes"),
        (NotHolomorphic, r"claims affine.* its entry carry\[\d\] is not holomorphic"),
        (NotElementwise, r"claims elementwise, but the entry carry\[\d\] .* depends on another"),
        (WrongOperator, r"operator\(\) must give the carry that stepping gives"),
        (NotAssociative, r"operator\(\).combine must be associative"),
        (WrongGates, "gates must return"),
        (BiasInMix, "linear in the hidden vector"),
        (StepBesideUpdate, "must be its step"),
    ],
)
def test_what_is_broken_is_named(cell, words):
    with pytest.raises(ContractError, match=words):
        check_cell(cell(), jax.random.key(0), 3)
