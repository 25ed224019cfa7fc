"""The entries in the list of images of a working store."""

from dataclasses import dataclass
from typing import Any, Self

FORMAT, VERSION = "dkmeans-images", 1


@dataclass(frozen=True)
class Image:
    """An image's entry in the list of a working store."""

    name: str
    array: str
    shape: tuple[int, int, int]
    offset: int | None
    source: str

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Self:
        """Return the entry; anything else than whole numbers and texts raises."""
        height, width, bands = (int(n) for n in entry["shape"])
        if min(height, width, bands) < 1:
            raise ValueError(f"shape {entry['shape']}")
        offset = entry["offset"] if entry["offset"] is None else int(entry["offset"])
        name, array, source = (str(entry[key]) for key in ("name", "array", "source"))
        return cls(name, array, (height, width, bands), offset, source)
