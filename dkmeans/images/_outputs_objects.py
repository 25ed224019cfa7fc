"""Where labels go in S3: objects joined from parts, and Zarr arrays. Nothing looks finished early.

Parts are objects of a folder beside the output. They are joined by streaming: a finished object
appears whole, with its last byte. A Zarr array has only chunks until the job puts its metadata.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, groupby

from isal import isal_zlib

from dkmeans import _stores_objects as objects
from dkmeans import _stores_ranges as ranges
from dkmeans._tiling import Window
from dkmeans._validation import OutputError
from dkmeans.images._outputs import (
    Entry,
    Grown,
    ImageFile,
    Labels,
    PngFile,
    Ready,
    TiffFile,
)

_SEGMENT = 16 << 20  # bytes of a part: what a task holds in memory
_AT_ONCE = 32 << 20  # bytes of an object that is put with one request, on a condition

_Segment = tuple[list[Entry], bytes, int]  # what it holds, its bytes, and of how many labels


@dataclass(frozen=True)
class _Joined(ImageFile):
    """An image file in S3; `path` and `scratch` are URLs.

    Attributes
    ----------
    replaces
        Whether what is there may be replaced.
    """

    replaces: bool = False

    def write(
        self, part: str, blocks: Iterable[tuple[Window, Labels]], grown: Grown | None = None
    ) -> list[Entry]:
        """Encode labels to objects of some MiB, whose names begin with that of the part."""
        return self._put_parts(part, self._segments(blocks), grown)

    def write_whole(
        self,
        part: str,
        blocks: Iterable[tuple[Window, Labels]],
        grown: Grown | None = None,
        ready: Ready | None = None,
    ) -> int:
        """Write all labels; those of a small picture go into the finished object at once."""
        segments = self._segments(blocks)
        entries, data, n_pixels = first = next(segments)
        if n_pixels < self.height * self.width:
            return self.finish(self._put_parts(part, chain([first], segments), grown), ready)
        next(segments, None)  # lets the source see to it that it has not changed meanwhile
        if grown is not None:  # of a part that is never put: the finished object stands for it
            grown(entries, part, len(data), isal_zlib.crc32(data), n_pixels)
        return self._put(
            sorted(entries), lambda of: (data[e.start : e.start + e.size] for e in of), ready
        )

    def finish(self, entries: Sequence[Entry], ready: Ready | None = None) -> int:
        """Join the parts, in the order of their keys, and remove them."""
        size = self._put(sorted(entries), _read, ready)
        for part in {entry.part for entry in entries}:
            objects.remove(part)
        return size

    def _segments(self, blocks: Iterable[tuple[Window, Labels]]) -> Iterator[_Segment]:
        """Yield encoded labels, some MiB at a time."""
        entries: list[Entry] = []
        data, n_pixels = bytearray(), 0
        for window, labels in blocks:
            for key, encoded, adler, length in self._encode(window, labels):
                entries.append(Entry(key, "", len(data), len(encoded), adler, length))
                data += encoded
            n_pixels += window.n_pixels
            if len(data) >= _SEGMENT:
                yield entries, bytes(data), n_pixels
                entries, data, n_pixels = [], bytearray(), 0
        if entries:
            yield entries, bytes(data), n_pixels

    def _put_parts(
        self, part: str, segments: Iterable[_Segment], grown: Grown | None
    ) -> list[Entry]:
        entries = []
        for n, (found, data, n_pixels) in enumerate(segments):
            url = f"{self.scratch}/{part.removesuffix('.part')}-{n}.part"
            objects.write(url, data, replace=True)
            placed = [replace(entry, part=url) for entry in found]
            entries += placed
            if grown is not None:
                grown(placed, url, len(data), isal_zlib.crc32(data), n_pixels)
        return entries

    def _put(
        self,
        entries: Sequence[Entry],
        read: Callable[[Sequence[Entry]], Iterator[bytes]],
        ready: Ready | None,
    ) -> int:
        """Put the finished object; return its size."""
        header, trailer = self._frame(entries)
        size = len(header) + sum(entry.size for entry in entries) + len(trailer)
        whole = _told(chain([header], read(entries), [trailer]), ready)
        if size > _AT_ONCE or self.replaces:
            objects.upload(self.path, whole, size)
            return size
        data = b"".join(whole)
        # A task may be run again after it has done its work: then the same is there.
        if objects.create(self.path, data) is None and objects.read(self.path, size + 1) != data:
            raise OutputError(f"{self.path}: exists already.")
        return size


def _told(chunks: Iterable[bytes], ready: Ready | None) -> Iterator[bytes]:
    """Yield chunks; at their end, before the object can get its name, tell what they make up."""
    size = crc = 0
    for chunk in chunks:
        yield chunk
        size += len(chunk)
        crc = isal_zlib.crc32(chunk, crc)
    if ready is not None:
        ready(size, crc)


def _read(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield the stretches of parts, neighbours of one part in one go."""
    states: dict[str, objects.State] = {}
    for part, group in groupby(entries, lambda entry: entry.part):
        if part not in states:
            states[part] = objects.state(part)
        places = [(entry.start, entry.size) for entry in group]
        with closing(ranges.stretches(part, states[part], places)) as stretches:
            yield from stretches


@dataclass(frozen=True)
class PngObject(_Joined, PngFile):
    """An indexed PNG in S3."""


@dataclass(frozen=True)
class TiffObject(_Joined, TiffFile):
    """A tiled palette BigTIFF in S3."""
