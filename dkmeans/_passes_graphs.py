"""The graph of a pass: tasks, and their results merged in a tree in the order of the tasks."""

import copy
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Task:
    """One call of a pass.

    Attributes
    ----------
    function
        Called with the list of the blocks that the task needs, an empty one where it needs none.
    keys
        Of these blocks.
    graphs
        The `HighLevelGraph`s that compute them; the same object where tasks have one in common.
    """

    function: Callable[[Sequence[Any]], Any]
    keys: list[Any]
    graphs: list[Any]


def _tree(submit: Callable[..., Any], merge: Callable[[R, R], R], parts: list[Any]) -> Any:
    """Merge neighbours until one is left."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [submit(merge, *pair) if len(pair) > 1 else pair[0] for pair in pairs]
    return parts[0]


def _graph(
    tasks: Sequence[Task], merge: Callable[[R, R], R]
) -> tuple[dict[str, Any], list[str], str]:
    """Return the tasks and their merges as a graph, the keys of the tasks, and the last key."""
    graph: dict[str, Any] = {}
    name = f"pass-{uuid.uuid4().hex}"  # no key of a graph of the user's

    def submit(function: Callable[..., Any], *args: Any) -> str:
        key = f"{name}-{len(graph)}"
        graph[key] = (function, *args)
        return key

    parts = [submit(task.function, task.keys) for task in tasks]
    return graph, parts, _tree(submit, merge, list(parts))


def _with_inputs(graph: dict[str, Any], tasks: Sequence[Task]) -> Any:
    """Return the graph of a pass on top of those that compute its inputs; its layer is "pass"."""
    from dask.highlevelgraph import HighLevelGraph  # noqa: PLC0415 - here it is loaded already

    below = {id(graph): graph for task in tasks for graph in task.graphs}
    whole = HighLevelGraph.merge(*below.values())
    return HighLevelGraph(
        {**whole.layers, "pass": graph}, {**whole.dependencies, "pass": set(whole.layers)}
    )


def run_local(get: Callable[..., Any], tasks: Sequence[Task], merge: Callable[[R, R], R]) -> R:
    """Return the merged result, from `get`, which runs a graph on a local scheduler."""
    graph, _, last = _graph(tasks, merge)
    if any(task.graphs for task in tasks):
        graph = dict(_with_inputs(graph, tasks).cull({last}))
    result: R = get(graph, last)
    return result


def run_distributed(
    client: Any,
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
        Whatever a task raised. The others are cancelled.
    """
    from distributed import as_completed  # noqa: PLC0415 - slow to import; here it is loaded already

    submit = _submit_with_inputs if any(task.graphs for task in tasks) else _submit
    futures: list[Any] = []
    try:
        parts, merged = submit(client, tasks, partial(_merge_purely, merge), futures)
        nbytes = dict(zip((part.key for part in parts), sizes, strict=True))
        for part in as_completed(parts):
            if part.status != "finished":
                break  # the merged result has the error too, and raises it
            advance(nbytes[part.key])
        result: R = merged.result()
    except BaseException:
        client.cancel(futures)
        raise
    return result


def _merge_purely(merge: Callable[[R, R], R], a: R, b: R) -> R:
    """Leave `a` as it is: a cluster may run a merge again."""
    return merge(copy.deepcopy(a), b)


def _submit(
    client: Any, tasks: Sequence[Task], merge: Callable[[R, R], R], futures: list[Any]
) -> tuple[list[Any], Any]:
    """Return the futures of the tasks and the merged one; note in `futures` all that begin."""

    def submit(function: Callable[..., Any], *args: Any) -> Any:
        futures.append(client.submit(function, *args, pure=False, retries=2))
        return futures[-1]

    parts = [submit(task.function, task.keys) for task in tasks]
    return parts, _tree(submit, merge, list(parts))


def _submit_with_inputs(
    client: Any, tasks: Sequence[Task], merge: Callable[[R, R], R], futures: list[Any]
) -> tuple[list[Any], Any]:
    """Do what `_submit` does, in one graph with the inputs of the tasks."""
    from dask.delayed import Delayed  # noqa: PLC0415 - here it is loaded already

    graph, parts, last = _graph(tasks, merge)
    whole = _with_inputs(graph, tasks)
    wanted = [Delayed(key, whole, layer="pass") for key in (*parts, last)]
    futures += client.compute(wanted, retries=2, traverse=False)
    return futures[:-1], futures[-1]
