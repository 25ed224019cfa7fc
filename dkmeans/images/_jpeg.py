"""JPEG from memory to an array."""

import io
import re
from contextlib import suppress

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import JpegImagePlugin

UInt8 = npt.NDArray[np.uint8]

# Among coded pixels, FF stands for itself before 00, marks a restart before D0 to D7, and fills up
# before another FF (ITU-T T.81, section B.1.1). Anything else is the next marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN, _END = b"\xff\xda", b"\xff\xd9"


class PillowJpeg(JpegImagePlugin.JpegImageFile):
    """Pillow's reader of JPEG, but it looks for no resolution in EXIF, and warns of no damage."""

    def _read_dpi_from_exif(self) -> None:
        pass


def decode(data: bytes) -> UInt8:
    """Return all pixels of an 8-bit JPEG, (height, width, bands).

    libjpeg-turbo decodes straight to an array, in half the time that it takes by way of Pillow.
    But it makes up what a file that was cut off lacks, and does not tell. So whatever does not
    look whole is Pillow's, and so are the errors.

    Raises
    ------
    OSError, SyntaxError, ValueError
        If it cannot be decoded.
    """
    pixels: UInt8 | None = None
    if _is_whole(data):
        with suppress(imagecodecs.Jpeg8Error):
            pixels = imagecodecs.jpeg8_decode(data)
    if pixels is None:
        with PillowJpeg(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def _is_whole(data: bytes) -> bool:
    """Return whether the segments of a JPEG lead to its end, after a scan at least."""
    at, scans = 2, 0
    while marker := _MARKER.search(data, at):
        if marker[0] == _END:
            return scans > 0
        scans += marker[0] == _SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return False
