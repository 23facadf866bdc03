"""Wav files written down by a recogniser that was kept, one after the other.

A network that reads forward listens to each file piece by piece, and what it has understood is
printed as soon as that changes; one that reads both ways hears the whole first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.support import sound
from examples.support.cli import one_by_one
from examples.support.hearing import pieces
from examples.support.listener import Listener, Trained, whole, write
from examples.support.spoken_digits import RATE
from rnnjax import training

RUN = "run"  # in the folder of a run, the folder of its networks


def folders(out: Path) -> list[Path]:
    """The folders of the networks in a run, or the one that is such a folder itself.

    Raises:
        FileNotFoundError: there is none.
    """
    candidates = [out, *sorted(Path(out, RUN).glob("*"))]
    found = [folder for folder in candidates if training.saved_steps(folder)]
    if not found:
        raise FileNotFoundError(
            f"expected a run; {out} has none. Train one first: python -m examples.speech --save "
            f"{out}"
        )
    return found


def config_of(folder: Path) -> dict[str, Any]:
    """What a network and its run are made of.

    Raises:
        ValueError: it was trained by another example.
    """
    config = training.load(folder).config
    if "spelling" not in config:
        raise ValueError(f"expected a run of examples.speech; {folder} is one of another example.")
    return config


def load(out: Path) -> Trained:
    """Read a network back.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several, it is damaged, or it has to know its speakers.
    """
    found = folders(out)
    if len(found) > 1:
        raise ValueError(f"expected one network; {out} has several. Name one, {found[0]} say.")
    config = config_of(found[0])
    if config["options"]["normalise"] == "speaker":
        raise ValueError(
            f"expected a network that can hear anybody; {found[0]} knows a voice only from many "
            "clips. Train one with --normalise utterance."
        )
    saved = training.load(found[0], best=True)
    params = jax.tree.map(jnp.asarray, saved.average)
    return Trained(config["model"], params, config["spelling"], config["single"])


def write_down(trained: Trained, paths: Sequence[Path], piece: float, width: int) -> None:
    """Print what each file says; a file that cannot be heard is named, and the others are done.

    Raises:
        SystemExit: with status 2, after all, where there was such a file.
    """

    def say(path: Path) -> str:
        return _hear(trained, sound.read_wav(path, RATE), piece, width)

    one_by_one(paths, say)


def _hear(trained: Trained, samples: np.ndarray, piece: float, width: int) -> str:
    if trained.single:
        return _name(whole(trained, samples))
    if trained.model.directions == "both":
        return write(trained.spelling, whole(trained, samples), width)
    return _listen(Listener(trained), samples, piece, width)


def _listen(listener: Listener, samples: np.ndarray, piece: float, width: int) -> str:
    """Print what has been understood whenever there is more of it; return all in the end."""
    understood = ""
    for number, part in enumerate(pieces(samples, piece), 1):
        text = listener.push(part)
        if text != understood:
            print(f"{min(number * piece, len(samples) / RATE):8.1f} s  {text}", flush=True)
            understood = text
    return listener.end(width)


def _name(logits: jax.Array) -> str:
    """A digit, and how likely it is."""
    shares = jax.nn.softmax(logits)
    return f"{int(jnp.argmax(shares))} ({float(shares.max()):.0%})"
