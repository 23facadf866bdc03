"""A line of a run's progress now and then, where there is no terminal for a bar."""

import sys
from collections.abc import Callable

from rnnjax.training import Record


class Lines:
    """A writer for `rnnjax.training.fit` that prints about ten lines in all.

    Args:
        steps: of the whole run.
        words: what to print of a record.
    """

    def __init__(self, steps: int, words: Callable[[Record], str]):
        self._steps, self._words, self._shown = steps, words, 0

    def start(self, step: int) -> None:
        """Say where a run goes on."""
        self._shown = step * 10 // self._steps
        if step:
            print(f"going on from step {step:,}")

    def write(self, record: Record) -> None:
        """Print a record when the next tenth is done."""
        share = int(record["step"]) * 10 // self._steps
        if share > self._shown and "loss" in record and not sys.stderr.isatty():
            self._shown = share
            print(f"{share:3}0%  {self._words(record)}", flush=True)

    def sync(self) -> None:
        """Nothing is kept here."""

    def close(self) -> None:
        """Nothing is open."""
