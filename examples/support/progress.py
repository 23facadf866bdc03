"""Progress of a long loop: a bar on a terminal, elsewhere a line now and then."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress(total: int, lines: int = 10) -> Iterator[Callable[[int, str], None]]:
    """Yield `report(done, words)`.

    Args:
        total: what `done` is at the end.
        lines: where there is no terminal, how many lines are printed in all.
    """
    console = Console()
    if not console.is_terminal:
        yield _Lines(total, lines)
        return
    columns = ("[progress.percentage]{task.percentage:>3.0f}%", "{task.fields[words]}")
    with Progress(
        TextColumn(columns[0]),
        BarColumn(),
        TextColumn(columns[1]),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("", total=total, words="")
        yield lambda done, words: bar.update(task, completed=done, words=words)


class _Lines:
    def __init__(self, total: int, lines: int):
        self.total, self.lines, self.shown = total, lines, 0

    def __call__(self, done: int, words: str) -> None:
        share = done * self.lines // self.total
        if share > self.shown:
            self.shown = share
            print(f"{done / self.total:4.0%}  {words}", flush=True)
