"""The command line: ``python -m benchmarks NAME [--quick] [--out DIR]``, or one of its tools."""

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import rich
import tyro

import benchmarks
from benchmarks import choose, document
from benchmarks.benchmark import OptionError, Options
from benchmarks.results import device, load, record, slug
from benchmarks.speed_rows import disagreements

RESULTS = Path("benchmarks/results")
# Fewer sizes, so nothing to commit: git ignores this folder.
QUICK_RESULTS = Path("runs/benchmarks")


@dataclasses.dataclass(frozen=True)
class Tables:
    """Generate the page of results from the result files.

    Args:
        results: the folder with a folder of result files for each device.
        out: the page to write.
        redraw: sum up and draw the result files anew first.
    """

    results: Path = RESULTS
    out: Path = Path("docs/benchmarks.md")
    redraw: tyro.conf.FlagCreatePairsOff[bool] = False


@dataclasses.dataclass(frozen=True)
class Choose:
    """Let Auto pick what the results of the speed benchmark show to be fastest.

    Args:
        results: the folder with a folder of result files for each device.
        out: the module to write.
    """

    results: Path = RESULTS
    out: Path = Path("rnnjax/strategies/measured.py")


@dataclasses.dataclass(frozen=True)
class Agree:
    """Say how far two runs of the speed benchmark agree.

    Args:
        first: a result file.
        second: another, of the same device.
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]


def main(args: Sequence[str]) -> None:
    """List the benchmarks, run one, or sum up the results."""
    if not args or args[0] in ("-h", "--help"):
        print(listing())
    elif args[0] == "tables":
        generate(tyro.cli(Tables, prog="python -m benchmarks tables", args=args[1:]))
    elif args[0] == "agree":
        compare(tyro.cli(Agree, prog="python -m benchmarks agree", args=args[1:]))
    elif args[0] == "choose":
        choose_strategy(tyro.cli(Choose, prog="python -m benchmarks choose", args=args[1:]))
    else:
        try:
            options = benchmarks.find(args[0]).options
        except ValueError as error:
            sys.exit(str(error))
        line, prog = benchmarks.BENCHMARKS[args[0]], f"python -m benchmarks {args[0]}"
        chosen = tyro.cli(options, prog=prog, description=line, args=args[1:])
        try:
            run(args[0], chosen)
        except OptionError as error:
            sys.exit(str(error))


def listing() -> str:
    """Return the names, a line each."""
    lines = {
        **benchmarks.BENCHMARKS,
        "agree": "Say how far two runs of speed agree.",
        "choose": "Let Auto pick what the results of speed show to be fastest.",
        "tables": "Generate docs/benchmarks.md from the result files.",
    }
    width = max(map(len, lines))
    names = [f"  {name:{width}}  {line}" for name, line in lines.items()]
    return "\n".join(["python -m benchmarks NAME [--quick] [--out DIR]", "", *names])


def run(name: str, options: Options) -> None:
    """Run a benchmark, write its results and its picture, and print what they show."""
    # A program out of JAX's persistent cache would seem to compile in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    benchmark, begin = benchmarks.find(name), time.perf_counter()
    out = options.out or (QUICK_RESULTS if options.quick else RESULTS) / slug(device())
    check_writable(out)
    rows = benchmark.measure(options)
    results = record(name, benchmark.packages, benchmark.summarise(rows), rows)
    path = results.save(out)
    benchmark.draw(results).savefig(path.with_suffix(".png"))
    for table in benchmark.tabulate(rows):
        rich.print(table.rich())
    print(results.summary)
    print(f"{path} and its picture, in {time.perf_counter() - begin:.0f} s")


def check_writable(folder: Path) -> None:
    """Make the folder, and refuse one that cannot be written before anything is measured.

    Raises:
        OptionError: when it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(
            f"benchmarks: --out must be a folder that can be written; got {folder}: {error}. "
            "Pass another one."
        ) from error


def generate(options: Tables) -> None:
    """Write the page of results."""
    if options.redraw:
        for path in document.find_results(options.results):
            redraw(path)
    page = document.document(options.results, options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")
    print(options.out)


def choose_strategy(options: Choose) -> None:
    """Write what Auto picks, and print what it costs on each device that was measured."""
    paths = document.find_results(options.results)
    found = [load(path) for path in paths if path.stem == "speed"]
    options.out.write_text(choose.module(found), encoding="utf-8")
    print(f"{options.out}; what Auto picked before:")
    for results in found:
        rich.print(choose.table(results).rich())


def compare(options: Agree) -> None:
    """Print how far the ratios to the fastest peer of two runs are apart."""
    try:
        first, second = (load(path).rows for path in (options.first, options.second))
    except (OSError, ValueError) as error:
        sys.exit(f"benchmarks agree: {error}")
    apart = disagreements(first, second)
    if not apart:
        sys.exit("benchmarks agree: the files have no row in common. Pass two of the same sizes.")
    near = sum(difference <= 0.15 for difference in apart)
    print(
        f"Time over that of the fastest peer, {len(apart)} rows: the median differs by "
        f"{statistics.median(apart):.1%}; {near} rows by at most 15 %."
    )


def redraw(path: Path) -> None:
    """Sum up and draw a result file anew."""
    results = load(path)
    benchmark = benchmarks.find(results.benchmark)
    results = dataclasses.replace(results, summary=benchmark.summarise(results.rows))
    results.save(path.parent)
    benchmark.draw(results).savefig(path.with_suffix(".png"))


if __name__ == "__main__":
    main(sys.argv[1:])
