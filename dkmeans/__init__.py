"""dkmeans: k-means clustering and colour quantisation of images larger than memory.

``import dkmeans`` is quick: what a name needs is imported when the name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkmeans._estimators import KMeans
    from dkmeans._estimators_functions import k_means, kmeans_plusplus, load
    from dkmeans._estimators_minibatch import MiniBatchKMeans
    from dkmeans._palette import Palette
    from dkmeans._validation import (
        ClusterError,
        CompleteError,
        DkmeansError,
        InsufficientMemoryError,
        InvalidArgumentError,
        OutputError,
        SourceError,
    )
    from dkmeans.images import (
        ImageInfo,
        IngestResult,
        QuantizeResult,
        SourceReport,
        info,
        ingest,
        quantize,
    )

    __version__: str

__all__ = [
    "ClusterError",
    "CompleteError",
    "DkmeansError",
    "ImageInfo",
    "IngestResult",
    "InsufficientMemoryError",
    "InvalidArgumentError",
    "KMeans",
    "MiniBatchKMeans",
    "OutputError",
    "Palette",
    "Plan",
    "PlannedPass",
    "QuantizeResult",
    "SourceError",
    "SourceReport",
    "__version__",
    "info",
    "ingest",
    "k_means",
    "kmeans_plusplus",
    "load",
    "plan",
    "quantize",
]

_HOMES = {
    "ClusterError": "dkmeans._validation",
    "CompleteError": "dkmeans._validation",
    "DkmeansError": "dkmeans._validation",
    "ImageInfo": "dkmeans.images",
    "IngestResult": "dkmeans.images",
    "InsufficientMemoryError": "dkmeans._validation",
    "InvalidArgumentError": "dkmeans._validation",
    "KMeans": "dkmeans._estimators",
    "MiniBatchKMeans": "dkmeans._estimators_minibatch",
    "OutputError": "dkmeans._validation",
    "Palette": "dkmeans._palette",
    "Plan": "dkmeans._plan_passes",
    "PlannedPass": "dkmeans._plan_passes",
    "QuantizeResult": "dkmeans.images",
    "SourceError": "dkmeans._validation",
    "SourceReport": "dkmeans.images",
    "info": "dkmeans.images",
    "ingest": "dkmeans.images",
    "k_means": "dkmeans._estimators_functions",
    "kmeans_plusplus": "dkmeans._estimators_functions",
    "load": "dkmeans._estimators_functions",
    "plan": "dkmeans._plan",
    "quantize": "dkmeans.images",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("dkmeans")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'dkmeans' has no attribute {name!r}")
    globals()[name] = value  # found there from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
