"""What a benchmark found, as Markdown, and put between marks of a page."""

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contest import OURS, Case, Outcome, Trial
from measure import MIB, table

# How facts are told, in the order of the columns; what is not named here is in the JSON only.
_FACTS: dict[str, Callable[[float], str]] = {
    "iterations": "{:.3g}".format,
    "passes": "{:.3g}".format,
    "GB/s": "{:.2f}".format,
    "of the full fit": "{:.4f}".format,
    "PSNR": "{:.2f} dB".format,
    "between passes": "{:.1%}".format,
    "a task": "{:.2g} s".format,
}
_MEMORY = {"peak memory": "peak", "largest worker": "worker"}


@dataclass(frozen=True)
class Found:
    """A benchmark: its name, what it is, the command, the machine, its cases and outcomes."""

    name: str
    about: str
    command: str
    machine: Mapping[str, str]
    held: Sequence[tuple[Case, Outcome]]

    def json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "benchmark": self.name,
            "command": self.command,
            "machine": dict(self.machine),
            "cases": [
                {**asdict(outcome), "aims": _aims(case, outcome)} for case, outcome in self.held
            ],
        }

    def markdown(self) -> str:
        """Return the section of a page: tables of all figures, of what was aimed at, the facts."""
        left_out = {
            f"- Left out: {name}: {_without_folders(why.strip().splitlines()[-1])}"
            for _, outcome in self.held
            for name, why in outcome.left_out.items()
        }
        parts = [
            self.about.strip(),
            f"    {self.command}",
            _table(self.held),
            judged(self.held),
            "\n".join(sorted(left_out)),
            "\n".join(f"- {name}: {text}" for name, text in self.machine.items()),
        ]
        return "\n\n".join(part for part in parts if part)


def _without_folders(text: str) -> str:
    """Return a message with only the last name of each path: folders say nothing to others."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)+", "", text)


def _table(held: Sequence[tuple[Case, Outcome]]) -> str:
    """Return the table of all figures, without columns in which there are none."""
    rows = [
        {"case": outcome.name if i == 0 else "", " ": name, **_figures(outcome, name, trials)}
        for _, outcome in held
        for i, (name, trials) in enumerate(outcome.trials.items())
    ]
    names = dict.fromkeys(name for row in rows for name, text in row.items() if text)
    return table([*names], [[row.get(name, "") for name in names] for row in rows])


def _figures(outcome: Outcome, name: str, trials: Sequence[Trial]) -> dict[str, str]:
    """Return the figures of a contestant by the names of their columns."""
    seconds = [trial.seconds for trial in trials]
    median = statistics.median(seconds)
    estimate = " (estimated)" if outcome.fact(name, "estimated") else ""
    several = len(seconds) > 1
    inertia, ours = outcome.fact(name, "inertia"), None
    if OURS in outcome.trials:
        ours = outcome.fact(OURS, "inertia")
    figures = {
        "median": f"{digits(median)} s{estimate}",
        "from - to": f"{digits(min(seconds))} - {digits(max(seconds))}" if several else "",
        "/ dkmeans": f"{median / outcome.seconds(OURS):.2f}" if OURS in outcome.trials else "",
        "inertia / dkmeans": f"{inertia / ours:.5f}" if inertia and ours else "",
    }
    for fact, form in _FACTS.items():
        told = outcome.fact(name, fact)
        figures[fact] = "" if told is None else form(told)
    for column, kind in _MEMORY.items():
        most = max(getattr(trial, kind) for trial in trials)
        figures[column] = f"{most / MIB:.0f} MiB" if most else ""
    figures["added"] = f"{min(trial.added for trial in trials) / MIB:.0f} MiB"
    return figures


def digits(number: float) -> str:
    """Return a number with about three digits."""
    if not number or not math.isfinite(number):
        return f"{number}"
    return f"{number:.{max(0, 2 - math.floor(math.log10(abs(number))))}f}"


def _aims(case: Case, outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "text": aim.text,
            "figure": aim.figure(outcome),
            "limit": aim.limit,
            "at_least": aim.at_least,
            "met": aim.met(outcome),
        }
        for aim in case.aims
    ]


def judged(held: Sequence[tuple[Case, Outcome]]) -> str:
    """Return the table of what was aimed at."""
    words = {True: "yes", False: "no", None: "not measured"}
    rows = []
    for case, outcome in held:
        for aim in _aims(case, outcome):
            figure = "" if aim["figure"] is None else f"{aim['figure']:.4g}"
            bound = f"{'at least' if aim['at_least'] else 'at most'} {aim['limit']:g}"
            rows.append([case.name, aim["text"], figure, bound, words[aim["met"]]])
    return table(["case", "what", "figure", "aim", "met"], rows) if rows else ""


def marks(name: str) -> tuple[str, str]:
    """Return what stands before and after the section of a benchmark."""
    return f"<!-- made by scripts/bench {name} -->", f"<!-- end of {name} -->"


def insert(text: str, path: Path, around: tuple[str, str]) -> None:
    """Put text between the marks of a file; at its end, with the marks, if it has none."""
    before, mark, rest = (path.read_text(encoding="utf-8") if path.exists() else "").partition(
        around[0]
    )
    if mark:
        after = rest.partition(around[1])[2]
    else:
        before, after = f"{before.rstrip()}\n\n" if before else "", "\n"
    path.write_text(f"{before}{around[0]}\n{text}\n{around[1]}{after}", encoding="utf-8")


def write_json(found: Sequence[Found], path: Path) -> None:
    """Write the figures of benchmarks."""
    path.write_text(json.dumps([one.json() for one in found], indent=1), encoding="utf-8")
