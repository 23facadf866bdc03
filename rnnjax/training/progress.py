"""A progress bar on a terminal, and silence anywhere else."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(total: int, done: int, *, shown: bool = True) -> Iterator[Callable[[int, str], None]]:
    """Yield ``report(done, words)``; it draws the bar, the words, the time gone and left.

    Args:
        total: what ``done`` is at the end.
        done: what it is at the beginning.
        shown: False draws nothing; neither does an output that is no terminal.
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda done, words: None
        return
    with Progress(
        TextColumn("[progress.percentage]{task.percentage:>3.0f}%"),
        BarColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as drawn:
        task = drawn.add_task("", total=total, completed=done, words="")
        yield lambda done, words: drawn.update(task, completed=done, words=words)
