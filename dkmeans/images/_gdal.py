"""GDAL, by way of rasterio: the decoder of what no faster one is used for.

This is the one module that names rasterio. Importing that takes as long as a small picture, so it
is done when it is needed: most JPEG and tiled TIFF are read without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._stores import State
from dkmeans._tiling import Window
from dkmeans._validation import SourceError
from dkmeans.images._quiet import without
from dkmeans.images._remote import Remote
from dkmeans.images._tiles import Layout

UInt8 = npt.NDArray[np.uint8]

CACHE_BYTES = 64 << 20  # of GDAL's blocks; its default is 5 % of the machine's memory
_BANDS = (1, 3)
_ENV = {
    "GDAL_CACHEMAX": CACHE_BYTES >> 20,
    "GDAL_NUM_THREADS": 1,  # the parallelism is Dask's
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no side-car files: the pixels are in the file
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",  # a truncated JPEG is an error, not grey pixels
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # it takes what is missing of a truncated PNG for pixels
}


@dataclass(frozen=True)
class Dataset:
    """What rasterio has opened, and how it is read if it is an object."""

    opened: Any
    remote: Remote | None

    def read(self, window: Window | None = None) -> UInt8:
        """Return the pixels of a window, or all of them."""
        from rasterio.windows import Window as Area  # noqa: PLC0415 - slow

        area = window and Area(window.x, window.y, window.width, window.height)
        pixels = self.opened.read(window=area)
        if self.remote is not None:
            self.remote.raise_trouble()
        return np.moveaxis(pixels, 0, -1)


@contextmanager
def dataset(path: str, driver: str, stored: State) -> Iterator[Dataset]:
    """Open a file, or an object in the given `_stores.state`, with a driver of GDAL's.

    Raises
    ------
    SourceError
        If GDAL cannot open it, or raises something while it is open.
    """
    import rasterio  # noqa: PLC0415 - slow
    import rasterio.errors  # noqa: PLC0415 - see above

    remote = Remote(path, stored) if _stores.is_url(path) else None
    try:
        with rasterio.Env(**_ENV), _in_utf8(path) as name:
            with without(rasterio.errors.NotGeoreferencedWarning):
                opened = rasterio.open(name, driver=driver, opener=remote)
            with opened:
                yield Dataset(opened, remote)
    except rasterio.errors.RasterioError as error:
        if remote is not None:
            remote.raise_trouble()
        reason = str(error.__cause__ or error).strip().rstrip(".")
        raise SourceError(f"{path}: cannot be decoded, truncated or damaged ({reason}).") from error


@contextmanager
def _in_utf8(path: str) -> Iterator[str]:
    """Yield a name of a file that rasterio takes, which has to be UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        with Path(path).open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield path


def layout(path: str, stored: State) -> Layout:
    """Return what GDAL tells of a TIFF."""
    from rasterio.enums import MaskFlags  # noqa: PLC0415 - slow

    with dataset(path, "GTiff", stored) as found:
        tiff = found.opened
        bands, dtype = tiff.count, tiff.dtypes[0]
        kinds = [kind.name for kind in tiff.colorinterp]
        bits = tiff.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")  # if not those of the dtype
        peculiar = {
            f"{bits}-bit pixels": bits is not None,  # GDAL takes one bit for a palette
            f"{bands} bands": bands not in _BANDS,
            f"{dtype} pixels": dtype != "uint8",
            "a palette": "palette" in kinds,
            "alpha": "alpha" in kinds,
            "colours other than grey and RGB": not {*kinds} <= {"gray", "red", "green", "blue"},
            "georeference": tiff.crs is not None or not tiff.transform.is_identity,
            "nodata": tiff.nodata is not None,
            "a mask": MaskFlags.per_dataset in tiff.mask_flag_enums[0],
            "several pages": len(tiff.subdatasets) > 1,
        }
        return Layout(
            (tiff.height, tiff.width, bands),
            tiff.block_shapes[0],
            tiff.compression is not None,
            tuple(what for what, present in peculiar.items() if present),
        )
