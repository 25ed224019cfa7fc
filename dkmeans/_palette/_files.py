"""Palette files: GIMP, Adobe, PNG, GDAL's colour table, and our JSON.

A format is a pair of functions between bytes and the content of a palette, listed in `FORMATS`.
Whatever the bytes are, parsing ends in a content or in `MalformedError`, which names the place.
"""

import io
import json
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._validation import MAX_COLORS, OutputError

MAX_PALETTE = 65536  # what 16-bit labels can tell apart

_MAX_BYTES = 8 << 20  # 65536 colours with shares and names of usual length take 5 MiB of JSON
_BYTE = 255


class Content(NamedTuple):
    """What `Palette` is made of: (k, 3) uint8, k shares or None, k names or None."""

    colors: npt.NDArray[np.uint8]
    shares: Any = None
    names: Sequence[str] | None = None


class MalformedError(Exception):
    """What is wrong in a file, and on which line if it has lines."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text if line is None else f"line {line}: {text}")


def read(path: str | os.PathLike[str]) -> bytes:
    """Read a file up to a size no palette has; an image has its palette near its beginning.

    Raises
    ------
    SourceError
        If there is no file of this name or it cannot be read.
    """
    return _stores.read(path, _MAX_BYTES + 1)


def write(path: str | os.PathLike[str], data: bytes, *, overwrite: bool) -> None:
    """Write a file, which appears when it is complete.

    Raises
    ------
    OutputError
        If the file exists and `overwrite` is false, or cannot be written.
    """
    if not overwrite and _stores.exists(path):
        raise OutputError(f"{os.fspath(path)}: exists already; choose another name, or overwrite.")
    _stores.write(path, data, replace=overwrite)


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, numbered from 1, without blanks at their ends."""
    if len(data) > _MAX_BYTES:
        raise MalformedError(f"larger than {_MAX_BYTES >> 20} MiB, and so hardly a palette.")
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(io.BytesIO(data), 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise MalformedError("not UTF-8 text.", number) from None
        if text:
            yield number, text


def is_one_line(text: str) -> bool:
    """Whether a text has no control characters, separators of lines or lone surrogates."""
    return not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in text)


def _channels(texts: Sequence[str]) -> tuple[int, ...] | None:
    """Return numbers from 0 to 255, or None if that is not what the texts are."""
    if not all(re.fullmatch("[0-9]{1,3}", text) for text in texts):
        return None
    values = tuple(int(text) for text in texts)
    return values if max(values) <= _BYTE else None


def _content(
    colors: Sequence[tuple[int, ...]], shares: Any = None, names: Sequence[str] | None = None
) -> Content:
    if not 1 <= len(colors) <= MAX_PALETTE:
        raise MalformedError(f"it holds {len(colors)} colours; expected 1 to {MAX_PALETTE}.")
    return Content(np.array(colors, np.uint8), shares, names)


def _told(value: Any) -> str:
    """Return a value as it may stand in a message: short, whatever it is."""
    if not isinstance(value, str | int | float | None):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + " ..."  # noqa: PLR2004 - fits on a line


def _parse_gpl(data: bytes) -> Content:
    """Read GIMP's format, version 2: developer.gimp.org/core/standards/gpl."""
    colors: list[tuple[int, ...]] = []
    names: list[str] = []
    lines = _lines(data)
    number, line = next(lines, (1, ""))
    if number != 1 or line != "GIMP Palette":
        raise MalformedError(f"{_told(line)} is no GIMP palette; expected 'GIMP Palette'.", number)
    for number, line in lines:
        if line.startswith("#") or (not colors and line.startswith(("Name:", "Columns:"))):
            continue
        red, green, blue, name, *_ = [*line.split(maxsplit=3), "", "", "", ""]
        color = _channels((red, green, blue))
        name = name.replace("\t", " ")
        if color is None or not is_one_line(name):
            raise MalformedError(
                f"{_told(line)} is no colour; expected three numbers from 0 to {_BYTE} and perhaps "
                "a name, such as '255 128 0 orange'.",
                number,
            )
        colors.append(color)
        names.append(name)
    return _content(colors, names=names)


def _serialize_gpl(palette: Content) -> bytes:
    lines = ["GIMP Palette", f"Name: dkmeans, {len(palette.colors)} colours", "Columns: 16", "#"]
    names = palette.names or ("",) * len(palette.colors)
    for (red, green, blue), name in zip(palette.colors.tolist(), names, strict=True):
        lines.append(f"{red:3d} {green:3d} {blue:3d}" + (name and f"\t{name}"))
    return ("\n".join(lines) + "\n").encode()


def _parse_act(data: bytes) -> Content:
    """Read 256 entries of three bytes, then perhaps their number and the transparent one."""
    table = 3 * MAX_COLORS
    if len(data) not in {table, table + 4}:
        size = f"{len(data)} bytes" if len(data) <= _MAX_BYTES else "far more"
        raise MalformedError(f"it has {size}; expected {table} or {table + 4} bytes.")
    k = MAX_COLORS if len(data) == table else struct.unpack_from(">H", data, table)[0]
    if not 1 <= k <= MAX_COLORS:
        raise MalformedError(f"it tells of {k} colours; expected 1 to {MAX_COLORS}.")
    return Content(np.frombuffer(data, np.uint8, 3 * k).reshape(k, 3))


def _serialize_act(palette: Content) -> bytes:
    table = palette.colors.tobytes().ljust(3 * MAX_COLORS, b"\0")
    if len(palette.colors) == MAX_COLORS:
        return table
    return table + struct.pack(">HH", len(palette.colors), 0xFFFF)  # no transparent colour


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SWATCH, _SWATCHES = 32, 16  # pixels a side; swatches in a row


def _parse_png(data: bytes) -> Content:
    """Read the PLTE chunk of an indexed PNG (ISO/IEC 15948), which precedes the pixels."""
    if not data.startswith(_PNG_SIGNATURE):
        raise MalformedError("not a PNG file; expected one with a palette.")
    position, depth = len(_PNG_SIGNATURE), 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if kind in {b"IHDR", b"PLTE"} and checksum != struct.pack(">I", zlib.crc32(kind + body)):
            raise MalformedError(f"its {kind.decode()} chunk is damaged or cut off.")
        if kind == b"IHDR":
            if length != 13 or body[9] != 3:  # noqa: PLR2004 - bytes of IHDR; the type for indices
                raise MalformedError("not an indexed PNG; expected one with a palette.")
            depth = body[8]
        elif kind == b"PLTE":
            if not depth or length % 3 or not 0 < length // 3 <= min(1 << depth, MAX_COLORS):
                raise MalformedError(f"its palette of {length} bytes does not fit its header.")
            return Content(np.frombuffer(body, np.uint8).reshape(-1, 3))
        elif kind == b"IDAT":
            break
        position += 12 + length
    raise MalformedError("no palette before its pixels or its end.")


def _serialize_png(palette: Content) -> bytes:
    """Draw the swatches in rows; those of a last, shorter row are wider, to fill it."""
    k = len(palette.colors)
    width = _SWATCH * min(k, _SWATCHES)
    rows = []
    for first in range(0, k, _SWATCHES):
        n = min(_SWATCHES, k - first)
        row = bytes(first + x * n // width for x in range(width))
        rows.append((b"\0" + row) * _SWATCH)  # each row of pixels begins with its filter: none
    header = struct.pack(">IIBBBBB", width, _SWATCH * len(rows), 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.colors.tobytes()),
        (b"IDAT", zlib.compress(b"".join(rows), 9)),
        (b"IEND", b""),
    )
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _parse_txt(data: bytes) -> Content:
    """Read lines of "index red green blue [alpha]", as GDAL's tools and QGIS write them."""
    colors: dict[int, tuple[int, ...]] = {}
    for number, line in _lines(data):
        index, *rest = re.split(r"[\s,:]+", line, maxsplit=5)  # QGIS adds a label
        if line.startswith("#") or index.lower() in {"nv", "interpolation"}:
            continue  # a comment, the colour of missing values, or a setting of QGIS
        color = _channels(rest[:4]) if len(rest) >= 3 else None  # noqa: PLR2004 - red, green, blue
        if color is None or not re.fullmatch("[0-9]{1,5}", index):
            raise MalformedError(
                f"{_told(line)} is no colour; expected an index, three numbers from 0 to {_BYTE} "
                "and perhaps a fourth for alpha, such as '0 255 128 0 255'.",
                number,
            )
        if int(index) in colors:
            raise MalformedError(f"the index {int(index)} occurs twice.", number)
        colors[int(index)] = color[:3]
    for expected in range(len(colors)):
        if expected not in colors:
            raise MalformedError(f"there is no colour {expected}; indices must be 0, 1, 2, ...")
    return _content([colors[i] for i in range(len(colors))])


def _serialize_txt(palette: Content) -> bytes:
    # One blank between the fields and no comments: GDAL's Python tools read nothing else.
    lines = (f"{i} {r} {g} {b} {_BYTE}\n" for i, (r, g, b) in enumerate(palette.colors.tolist()))
    return "".join(lines).encode()


_JSON_FORMAT, _JSON_VERSION = "dkmeans-palette", 1


def _parse_json(data: bytes) -> Content:
    if len(data) > _MAX_BYTES:
        raise MalformedError(f"larger than {_MAX_BYTES >> 20} MiB, and so hardly a palette.")
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error.msg}.", error.lineno) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, NaN, far too many digits or brackets
        raise MalformedError(f"not the JSON of a palette: {error}.") from None
    if not isinstance(content, dict) or content.get("format") != _JSON_FORMAT:
        raise MalformedError(f'not a palette; expected an object with "format": "{_JSON_FORMAT}".')
    version = content.get("version")
    if version != _JSON_VERSION or isinstance(version, bool):
        raise MalformedError(f'"version" is {_told(version)}; expected {_JSON_VERSION}.')
    keys = {"format", "version", "colors", "shares", "names"}
    if set(content) != keys:
        odd = ", ".join(_told(key) for key in sorted(set(content) ^ keys)[:3])
        raise MalformedError(f"it has unknown, or lacks some, entries: {odd}.")
    return _content_of_json(content["colors"], content["shares"], content["names"])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no share")


def _content_of_json(colors: Any, shares: Any, names: Any) -> Content:
    for key, value in (("colors", colors), ("shares", shares), ("names", names)):
        if not isinstance(value, list) and (value is not None or key == "colors"):
            raise MalformedError(f'"{key}" is {_told(value)}; expected a list.')
    for i, color in enumerate(colors):
        if not isinstance(color, str) or not re.fullmatch("#[0-9a-fA-F]{6}", color):
            raise MalformedError(
                f'"colors"[{i}] is {_told(color)}; expected a colour such as "#ff8000".'
            )
    for i, share in enumerate(shares or ()):
        if not isinstance(share, float | int) or isinstance(share, bool) or not 0 <= share <= 1:
            raise MalformedError(f'"shares"[{i}] is {_told(share)}; expected a number from 0 to 1.')
    return _content([tuple(bytes.fromhex(color[1:])) for color in colors], shares, names)


def _serialize_json(palette: Content) -> bytes:
    content = {
        "format": _JSON_FORMAT,
        "version": _JSON_VERSION,
        "colors": ["#" + color.tobytes().hex() for color in palette.colors],
        "shares": None if palette.shares is None else palette.shares.tolist(),
        "names": palette.names,
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


class Format(NamedTuple):
    """How a kind of file is read and written, and how many colours it holds."""

    parse: Callable[[bytes], Content]
    serialize: Callable[[Content], bytes]
    max_colors: int


FORMATS = {
    ".gpl": Format(_parse_gpl, _serialize_gpl, MAX_PALETTE),
    ".act": Format(_parse_act, _serialize_act, MAX_COLORS),
    ".json": Format(_parse_json, _serialize_json, MAX_PALETTE),
    ".png": Format(_parse_png, _serialize_png, MAX_COLORS),
    ".txt": Format(_parse_txt, _serialize_txt, MAX_PALETTE),
}
