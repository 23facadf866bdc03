"""Policies that were learnt: kept in folders, read back, and let act in new environments."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.support.acting import Policy, evaluate
from examples.support.environments import TMaze
from examples.support.kept import RUN, read_kept
from rnnjax import training

EPISODES = 1000  # that are scored
NEW = 1  # folded into a seed: the environments that are scored are not those of learning


class Saved(NamedTuple):
    """A policy as it was kept."""

    policy: Policy
    params: Any
    name: str
    seed: int
    options: dict[str, Any]


class Result(NamedTuple):
    """What became of a policy that was learnt from one seed."""

    name: str
    seed: int
    scores: np.ndarray  # of the new episodes
    records: list[training.Record]


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a policy is kept."""
    return out / RUN / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def load_all(out: Path) -> Iterator[Saved]:
    """Read the policies of a run back.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one is damaged, or the run is one of another example.
    """
    for saved in read_kept(out, "control", "policy", Policy):
        config, params = saved.config, jax.tree.map(jnp.asarray, saved.params)
        yield Saved(config["policy"], params, config["name"], config["seed"], config["options"])


def scores(policy: Policy, params: Any, seed: int) -> np.ndarray:
    """Score 1,000 episodes in environments that are not those of learning."""
    key = jax.random.fold_in(jax.random.key(seed), NEW)
    return np.asarray(evaluate(policy, params, key, EPISODES))


def act_again(saved: Saved, length: int | None) -> Result:
    """Let a policy act, in a maze of another length where one is given.

    Raises:
        ValueError: a length is given to what is no maze.
    """
    policy = saved.policy
    if length is not None:
        if not isinstance(policy.environment, TMaze):
            raise ValueError("--length: expected policies of a T-maze; these balance a cart-pole.")
        policy = dataclasses.replace(policy, environment=TMaze(length))
    return Result(saved.name, saved.seed, scores(policy, saved.params, saved.seed), [])
