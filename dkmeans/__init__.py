"""dkmeans: k-means clustering and colour quantisation of images larger than memory.

``import dkmeans`` is quick: what a name needs is imported when the name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkmeans._palette import Palette
    from dkmeans._validation import (
        DkmeansError,
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
    "DkmeansError",
    "ImageInfo",
    "IngestResult",
    "InvalidArgumentError",
    "OutputError",
    "Palette",
    "QuantizeResult",
    "SourceError",
    "SourceReport",
    "__version__",
    "info",
    "ingest",
    "quantize",
]

_HOMES = {
    "DkmeansError": "dkmeans._validation",
    "ImageInfo": "dkmeans.images",
    "IngestResult": "dkmeans.images",
    "InvalidArgumentError": "dkmeans._validation",
    "OutputError": "dkmeans._validation",
    "Palette": "dkmeans._palette",
    "QuantizeResult": "dkmeans.images",
    "SourceError": "dkmeans._validation",
    "SourceReport": "dkmeans.images",
    "info": "dkmeans.images",
    "ingest": "dkmeans.images",
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
