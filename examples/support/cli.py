"""An example's command line: options as a dataclass, mistakes as one line and exit status 2."""

import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff

Options = TypeVar("Options")


class OptionError(ValueError):
    """A mistake in what was typed: the option, what was expected, what came, and the mend."""


@contextlib.contextmanager
def blame(option: str) -> Iterator[None]:
    """Put an option's name before what reading or checking its value may raise.

    Example:
        >>> with blame("--size"):
        ...     raise ValueError("expected at least 1; got 0.")
        Traceback (most recent call last):
        examples.support.cli.OptionError: --size: expected at least 1; got 0.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise OptionError(f"{option}: {error}") from error


def at_least_one(name: str, value: int | None) -> None:
    """Check a size given as the option of this name; None stands for one that is not given.

    Raises:
        OptionError: it is below 1.
    """
    if value is not None and value < 1:
        raise OptionError(f"{_option(name)}: expected a whole number from 1 up; got {value}.")


def positive(name: str, value: float | None) -> None:
    """Check a number given as the option of this name; None stands for one that is not given.

    Raises:
        OptionError: it is not above 0, or not finite.
    """
    if value is not None and not 0 < value < math.inf:
        raise OptionError(f"{_option(name)}: expected a number above 0; got {value}.")


def within(name: str, value: float | None, low: float, high: float) -> None:
    """Check a number given as the option of this name; None stands for one that is not given.

    Raises:
        OptionError: it is below ``low`` or above ``high``.
    """
    if value is not None and not low <= value <= high:
        raise OptionError(f"{_option(name)}: expected a number from {low} to {high}; got {value}.")


def below_one(name: str, value: float | None) -> None:
    """Check a share given as the option of this name; None stands for one that is not given.

    Raises:
        OptionError: it is below 0, or not below 1.

    Example:
        >>> below_one("drop_out", 1.0)
        Traceback (most recent call last):
        examples.support.cli.OptionError: --drop-out: expected a number in [0, 1); got 1.0.
    """
    if value is not None and not 0 <= value < 1:
        raise OptionError(f"{_option(name)}: expected a number in [0, 1); got {value}.")


def a_seed(value: int) -> None:
    """Check the option --seed.

    Raises:
        OptionError: no generator takes it.
    """
    if not 0 <= value < 2**32:
        raise OptionError(f"--seed: expected a number from 0 to 2**32 - 1; got {value}.")


def parse(default: Options, argv: Sequence[str] | None) -> Options:
    """Read the options; `default` gives their names, types and values where nothing is typed."""
    return tyro.cli(type(default), default=default, args=argv, config=(FlagCreatePairsOff,))


def run(main: Callable[[Options], None], default: Options, argv: Sequence[str] | None) -> None:
    """Read the options, call main; an `OptionError` leaves as one line with exit status 2.

    Args:
        main: takes the options.
        default: the options where nothing is typed; its class gives their names and types.
        argv: the arguments; None: those of the process.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    try:
        main(parse(default, argv))
    except OptionError as error:
        _leave(str(error))


def one_by_one(files: Sequence[Path], say: Callable[[Path], str]) -> None:
    """Print what is to be said of each file; a bad one is named, and the others are done.

    Raises:
        SystemExit: with status 2, after all, where there was a bad one.
    """
    bad = 0
    for file in files:
        try:
            print(f"{file}: {say(file)}", flush=True)
        except (OSError, ValueError) as error:
            _complain(str(error))
            bad += 1
    if bad:
        raise SystemExit(2)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _leave(message: str) -> NoReturn:
    _complain(message)
    raise SystemExit(2)


def _complain(message: str) -> None:
    print("error:", " ".join(message.split()), file=sys.stderr)
