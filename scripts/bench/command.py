"""Run benchmarks beside other libraries, each in a process of its own, in turns, A B A B.

    python scripts/bench lloyd
    python scripts/bench fit --photos FOLDER --only patches
    python scripts/bench all --photos FOLDER --work FOLDER --json all.json --docs docs/benchmarks.md

Medians, ratios, memory, inertia and passes are printed as Markdown. A library that is not
installed is left out, with a line that says how to get it; `pip install -e '.[bench]'` gets those
that pip can.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from contest import Case, Outcome, hold, limit_threads
from measure import machine
from report import Found, insert, marks, write_json

NAMES = ("lloyd", "fit", "outofcore", "minibatch", "colour", "scaling")


def run(name: str, options: argparse.Namespace, command: str) -> Found:
    """Run one benchmark."""
    module = import_module(name)
    held: list[tuple[Case, Outcome]] = []
    for whole in module.cases(options):
        if any(text in whole.name for text in options.only or [""]):
            entries = [entry for entry in whole.entries if entry.name not in options.without]
            case = replace(whole, entries=entries)
            places = {"separate": not options.together, "warm_up": not options.small}
            outcome = hold(case, options.rounds, **places)
            held.append((case, outcome))
    return Found(name, module.__doc__ or "", command, machine(), held)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("scripts/bench", description=__doc__, formatter_class=about)
    parser.add_argument("names", nargs="+", choices=[*NAMES, "all"], metavar="NAME",
                        help=f"one or more of {', '.join(NAMES)}; or all")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="after a warm-up")
    parser.add_argument("--only", action="append", metavar="TEXT", help="cases with it in the name")
    parser.add_argument(
        "--estimate", action="store_true", help="do not run dask-ml and Spark to the end"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="CONTESTANT", help="leave it out"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="sizes that take seconds, without a warm-up: figures mean nothing",
    )
    parser.add_argument("--threads", type=int, default=2, help="or worker processes")
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--picture", type=Path, help="a large one, made by gigapixel.py")
    parser.add_argument("--work", type=Path, help="a folder to keep data in, for the next time")
    parser.add_argument("--together", action="store_true", help="all in one process")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--docs", type=Path, help="put the tables into this Markdown file")
    return parser.parse_args(arguments)


def without_places(arguments: Sequence[str]) -> str:
    """Return the command; files and folders of this machine are only called so."""
    words = ["python", "scripts/bench"]
    for word in arguments:
        path = Path(word)
        words.append(("FOLDER" if path.is_dir() else "FILE") if path.is_absolute() else word)
    return shlex.join(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print and write."""
    options = parse(arguments)
    names = NAMES if "all" in options.names else options.names
    command = without_places(sys.argv[1:] if arguments is None else arguments)
    limit_threads(options.threads)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or Path(folder)
        options.work.mkdir(parents=True, exist_ok=True)
        for name in names:
            one = run(name, options, command)
            print(f"{one.markdown()}\n", flush=True)
            found.append(one)
            if options.docs:
                insert(one.markdown(), options.docs, marks(name))
            if options.json:
                write_json(found, options.json)
