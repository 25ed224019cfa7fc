"""The graph of a pass: tasks, and their results merged in a tree in the order of the tasks."""

import copy
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, TypeVar

import dask

R = TypeVar("R")

# Results that one task of a cluster merges: of more, it would hold more of them at once, and fewer
# make more tasks of some 2 ms each. Local schedulers merge pairs as soon as they are there.
_MERGED_AT_ONCE = 4


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
    """

    function: Callable[[Any, Sequence[Any]], Any]
    keys: list[Any]
    graphs: list[Any]
    stays: bool = False


def _tree(
    submit: Callable[..., Any], merge: Callable[..., R], parts: list[Any], at_once: int
) -> Any:
    """Merge neighbours, so many `at_once`, until one is left."""
    while len(parts) > 1:
        groups = [parts[i : i + at_once] for i in range(0, len(parts), at_once)]
        parts = [submit(merge, *group) if len(group) > 1 else group[0] for group in groups]
    return parts[0]


def _graph(
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


def _with_inputs(
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


def _homes(client: Any, tasks: Sequence[Task], keys: Sequence[str]) -> dict[str, list[str]]:
    """Return which of the tasks each worker is to do, by address: the same ones in each pass."""
    threads = client.nthreads()
    places = [address for address in sorted(threads) for _ in range(threads[address])]
    homes: dict[str, list[str]] = {}
    for i, key in enumerate(keys):
        homes.setdefault(places[i * len(places) // len(tasks)], []).append(key)
    return homes


def run_local(
    get: Callable[..., Any], shared: Any, tasks: Sequence[Task], merge: Callable[[R, R], R]
) -> R:
    """Return the merged result, from `get`, which runs a graph on a local scheduler."""
    graph, _, last = _graph(shared, tasks, merge, 2)
    if any(task.graphs for task in tasks):
        graph = dict(_with_inputs(graph, tasks, {}).cull({last}))
    result: R = get(graph, last)
    return result


def run_distributed(  # noqa: PLR0917 - what `Passes.run` has
    client: Any,
    shared: Any,
    tasks: Sequence[Task],
    merge: Callable[[R, R], R],
    sizes: list[int],
    advance: Callable[[int], None],
) -> R:
    """Return the merged result from a cluster.

    Parameters
    ----------
    client
        Of the cluster.
    shared
        What all tasks are called with.
    tasks
        At least one.
    merge
        Associative; may overwrite and return its first argument.
    sizes
        Of each task, in bytes.
    advance
        Told the size of each task that is done.

    Raises
    ------
    Exception
        Whatever a task raised. The others are given up.
    """
    from distributed import as_completed  # noqa: PLC0415 - slow to import; here it is loaded already

    futures = _submit(client, shared, tasks, partial(_merge_purely, merge))
    *parts, merged = futures
    try:
        nbytes = dict(zip((part.key for part in parts), sizes, strict=True))
        for part in as_completed(parts):
            if part.status != "finished":
                break  # the merged result has the error too, and raises it
            advance(nbytes[part.key])
        result: R = merged.result()
    except BaseException:
        # Not `cancel`, of which a scheduler despairs where futures depend on each other.
        for future in futures:
            future.release()
        raise
    return result


def _merge_purely(merge: Callable[[R, R], R], first: R, *others: R) -> R:
    """Leave `first` as it is: a cluster may run a merge again."""
    return reduce(merge, others, copy.deepcopy(first))


def _submit(client: Any, shared: Any, tasks: Sequence[Task], merge: Callable[..., R]) -> list[Any]:
    """Return the futures of the tasks and, last, the merged one: one graph, sent at once."""
    from dask.delayed import Delayed  # noqa: PLC0415 - on a cluster it is loaded already

    graph, parts, last = _graph(shared, tasks, merge, _MERGED_AT_ONCE)
    homes = _homes(client, tasks, parts) if any(task.stays for task in tasks) else {}
    whole = _with_inputs(graph, tasks, homes)
    wanted = [Delayed(key, whole, layer="pass") for key in (*parts, last)]
    # Centres are as large as they are: Dask's advice to send less would be lost on the user.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
        futures: list[Any] = client.compute(wanted, retries=2, traverse=False)
    return futures
