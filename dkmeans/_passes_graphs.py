"""The graph of a pass: tasks, and their results merged in a tree in the order of the tasks."""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

R = TypeVar("R")

_LOG = logging.getLogger("dkmeans")


class Part(Protocol):
    """What a task reads of one source."""

    @property
    def where(self) -> str:
        """The source, and what of it, for messages."""

    @property
    def nbytes(self) -> int:
        """The size of all blocks."""

    @property
    def held_bytes(self) -> int:
        """The size of the blocks that are in memory at once."""


@dataclass(frozen=True)
class Task:
    """One call of a pass.

    Attributes
    ----------
    function
        Called with what all tasks of the pass share, and with the list of the blocks that this one
        needs, an empty one where it needs none.
    keys
        Of these blocks.
    graphs
        The `HighLevelGraph`s that compute them; the same object where tasks have one in common.
    stays
        Whether the task had best run where it ran in the last pass, if that worker is there and
        free.
    parts
        What it reads; not sent with it.
    """

    function: Callable[[Any, Sequence[Any]], Any]
    keys: list[Any]
    graphs: list[Any]
    stays: bool = False
    parts: Sequence[Part] = ()

    @property
    def nbytes(self) -> int:
        """The size of all that it reads."""
        return sum(part.nbytes for part in self.parts)


def place(parts: Sequence[Part]) -> str:
    """Say what one task reads."""
    where = parts[0].where
    if len(parts) > 1:
        where += f" and {len(parts) - 1} more, up to {parts[-1].where}"
    return where


def note_done(name: str, parts: Sequence[Part]) -> None:
    """Log that a task of a pass is done, for those who debug."""
    if _LOG.isEnabledFor(logging.DEBUG):
        more = {"of_pass": name, "part": place(parts), "bytes": sum(part.nbytes for part in parts)}
        _LOG.debug(
            "Pass %s: done with %s.", name, more["part"], extra={"event": "partition-done", **more}
        )


def _tree(
    submit: Callable[..., Any], merge: Callable[..., R], parts: list[Any], at_once: int
) -> Any:
    """Merge neighbours, so many `at_once`, until one is left."""
    while len(parts) > 1:
        groups = [parts[i : i + at_once] for i in range(0, len(parts), at_once)]
        parts = [submit(merge, *group) if len(group) > 1 else group[0] for group in groups]
    return parts[0]


def graph_of(
    shared: Any, tasks: Sequence[Task], merge: Callable[..., R], at_once: int
) -> tuple[dict[str, Any], list[str], str]:
    """Return the tasks and their merges as a graph, the keys of the tasks, and the last key.

    What the tasks share is a task too, so that it is sent to each worker once, and made again if
    the workers that have it are lost.
    """
    graph: dict[str, Any] = {}
    name = uuid.uuid4().hex  # no key of a graph of the user's

    def submit(function: Callable[..., Any], *args: Any, kind: str = "merge") -> str:
        key = f"{kind}-{name}-{len(graph)}"
        graph[key] = (function, *args)
        return key

    common = submit(partial(_same, shared), kind="share")
    parts = [submit(task.function, common, task.keys, kind="pass") for task in tasks]
    return graph, parts, _tree(submit, merge, list(parts), at_once)


def _same(value: Any) -> Any:
    return value


def with_inputs(
    graph: dict[str, Any], tasks: Sequence[Task], homes: Mapping[str, Sequence[str]]
) -> Any:
    """Return the graph of a pass on top of those that compute its inputs; its layer is "pass".

    `homes` are the workers, by address, where some keys had best be computed: layers of their own.
    """
    from dask.highlevelgraph import (  # noqa: PLC0415 - here it is loaded already
        HighLevelGraph,
        MaterializedLayer,
    )

    below = {id(graph): graph for task in tasks for graph in task.graphs}
    whole = HighLevelGraph.merge(*below.values())
    shared = next(iter(graph))
    layers = {"share": MaterializedLayer({shared: graph.pop(shared)})}
    for address, keys in homes.items():
        home = {"workers": [address], "allow_other_workers": True}
        part = {key: graph.pop(key) for key in keys}
        layers[f"pass-{address}"] = MaterializedLayer(part, annotations=home)
    needed = {**whole.dependencies, **{key: {*whole.layers, "share"} for key in layers}}
    needed |= {"share": set(), "pass": {*whole.layers, *layers}}
    return HighLevelGraph({**whole.layers, **layers, "pass": MaterializedLayer(graph)}, needed)


def run_local(
    get: Callable[..., Any], shared: Any, tasks: Sequence[Task], merge: Callable[[R, R], R]
) -> R:
    """Return the merged result, from `get`, which runs a graph on a local scheduler."""
    graph, _, last = graph_of(shared, tasks, merge, 2)
    if any(task.graphs for task in tasks):
        graph = dict(with_inputs(graph, tasks, {}).cull({last}))
    result: R = get(graph, last)
    return result
