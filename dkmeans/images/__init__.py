"""The image wing: pictures in, one palette and indexed pictures out."""

from dkmeans.images._quantize import QuantizeResult, quantize
from dkmeans.images._sources import SourceReport

__all__ = ["QuantizeResult", "SourceReport", "quantize"]
