"""Numbers in the words people read, and text from outside made printable."""

from contextlib import suppress
from pathlib import Path

_MINUTE, _HOUR = 60, 3600
_THREE_DIGITS = 1000


def printable(text: str) -> str:
    """Return a text in which control characters and broken ones are written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(nbytes: float) -> str:
    """Return a size such as "412.3 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if nbytes < _THREE_DIGITS:
            return f"{nbytes:.0f} {unit}" if unit == "bytes" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:,.1f} TiB"


def part(done: float, total: float) -> str:
    """Return "1.1 of 3.0 GiB", naming the unit once if it is the same."""
    (a, unit), whole = size(done).split(), size(total)
    return f"{a} of {whole}" if whole.endswith(unit) else f"{a} {unit} of {whole}"


def duration(seconds: float) -> str:
    """Return a time such as "7.4 s" or "2 h 05 min"."""
    if seconds < 9.95:  # noqa: PLR2004 - below 10.0, tenths matter
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min {seconds % _MINUTE:02d} s"
    return f"{seconds // _HOUR} h {seconds % _HOUR // _MINUTE:02d} min"


def pixels(n: int) -> str:
    """Return a number of pixels such as "39.0 megapixels"."""
    if n < 100_000:  # noqa: PLR2004 - 0.1 megapixels
        return f"{n:,} pixels"
    mega = n / 1e6
    if mega < _THREE_DIGITS:
        return f"{mega:.1f} megapixels"
    return f"{mega / 1000:,.1f} gigapixels"


def speed(nbytes: float, seconds: float, pixel_bytes: float | None) -> str:
    """Return bytes a second, or megapixels a second where the bytes of a pixel are known."""
    if pixel_bytes:
        return f"{nbytes / pixel_bytes / seconds / 1e6:.0f} megapixels/s"
    return f"{size(nbytes / seconds)}/s"


def shown_path(path: str) -> str:
    """Return a path relative to the working folder if it lies in there, and printable."""
    with suppress(OSError, ValueError):  # the working folder is gone; the path is not in there
        path = str(Path(path).relative_to(Path.cwd()))
    return printable(path)
