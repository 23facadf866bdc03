"""Signals that ask a run to end, kept until it has saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ASKED = (signal.SIGTERM, signal.SIGINT)


class Preempted(SystemExit):
    """A signal asked the run to end and its state is saved; uncaught, the process exits with 0."""

    def __init__(self, caught: signal.Signals, step: int):
        super().__init__(0)
        self.caught, self.step = caught, step

    def __str__(self) -> str:
        return f"{self.caught.name}: saved after step {self.step}"


class Asked:
    """The first signal that came, or None."""

    def __init__(self):
        self.signal: signal.Signals | None = None


@contextlib.contextmanager
def kept() -> Iterator[Asked]:
    """Keep SIGTERM and SIGINT until they are looked for; a second one acts as it did before.

    Python lets the main thread alone handle signals; in another thread nothing is kept.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {one: signal.getsignal(one) for one in ASKED}

    def restore() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    def keep(number: int, frame: FrameType | None) -> None:
        del frame
        asked.signal = signal.Signals(number)
        restore()

    for one in ASKED:
        signal.signal(one, keep)
    try:
        yield asked
    finally:
        restore()
