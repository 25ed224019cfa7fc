"""The image wing: pictures in, one palette and indexed pictures out."""

from dkmeans.images._ingest import IngestResult, ingest
from dkmeans.images._quantize import QuantizeResult, quantize
from dkmeans.images._sources import ImageInfo, SourceReport, headers, info

__all__ = [
    "ImageInfo",
    "IngestResult",
    "QuantizeResult",
    "SourceReport",
    "headers",
    "info",
    "ingest",
    "quantize",
]
