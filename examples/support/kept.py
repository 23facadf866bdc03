"""Models that an example has kept, read back by it and refused by every other."""

from pathlib import Path

from rnnjax import training

RUN = "run"  # in the folder of a run, the checkpoints of its model, or a folder for each model


def read_kept(out: Path, example: str, name: str, kind: type) -> list[training.Saved]:
    """Read the models of a run, sorted by the names of their folders.

    Args:
        out: the folder of the run.
        example: whose it has to be.
        name: of an entry of its config.
        kind: of that entry; models of other examples have none such.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is damaged, or the run is one of another example.
    """
    candidates = [out / RUN, *sorted(Path(out, RUN).glob("*"))]
    found = [training.load(folder) for folder in candidates if training.saved_steps(folder)]
    if not found:
        raise FileNotFoundError(
            f"expected a run; {out} has none. Train one first: python -m examples.{example} "
            f"--save {out}"
        )
    if not all(_holds(saved, name, kind) for saved in found):
        raise ValueError(f"expected a run of examples.{example}; {out} is one of another example.")
    return found


def _holds(saved: training.Saved, name: str, kind: type) -> bool:
    try:
        return isinstance(saved.config.get(name), kind)
    except ValueError:  # it names classes that only the other example knows
        return False
