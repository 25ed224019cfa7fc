"""A store under construction: where its chunks go, and where its metadata."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dkmeans import _stores
from dkmeans.images import _store


@dataclass(frozen=True)
class Site:
    """A store under construction.

    Attributes
    ----------
    place
        The folder or URL of its chunks.
    root
        Where its arrays are created: the folder, or the blueprint of what comes last.
    """

    place: str
    root: _store.Root

    def document(self, array: str) -> bytes | None:
        """Return the metadata of an array, or None if they are in the folder."""
        if isinstance(self.root, Path):
            return None
        return self.root.documents()[f"{array}/zarr.json".lstrip("/")]

    def is_sound(self, array: str, chunk: Sequence[int]) -> bool:
        """Return whether a chunk of an array is as it was written."""
        return _store.is_sound(_stores.below(self.place, array), chunk)
