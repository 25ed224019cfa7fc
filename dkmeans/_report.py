"""What people read when work is done: summaries on standard output, failures on standard error.

In a terminal there are colours and tables as wide as it is; elsewhere plain lines of any length,
without escape codes. Text from outside, such as file names, is made printable first.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]  # it ships no types
from rich.color import Color
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dkmeans._report_words import duration, pixels, printable, shown_path, size

if TYPE_CHECKING:
    from dkmeans._palette import Palette
    from dkmeans.images import ImageInfo, IngestResult, QuantizeResult, SourceReport

_FORMATS = {"GTiff": "TIFF", "WEBP": "WebP"}  # what GDAL calls otherwise than people
_PLAIN_WIDTH = 10_000  # a line is not to be broken where no terminal ends it
_WIDTH = 64  # of what is drawn, in characters
_LISTED = 10  # sources in a table
_MOST_USED = 8  # colours listed by value
_SWATCHES = 256  # colours shown


def peak_memory() -> int:
    """Return the most memory that this process and its living children had resident, in bytes.

    The peaks of the processes are added, though they need not fall together. Workers elsewhere do
    not count.
    """
    total = 0
    for process in (own := psutil.Process(), *own.children(recursive=True)):
        try:
            total += _peak(process)
        except (psutil.Error, OSError):  # it ended just now, or is not ours to look at
            continue
    return total


def _peak(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status")  # Linux; "VmHWM:     1234 kB"
    if status.exists():
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = process.memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # Windows knows the peak, others only now


def console_of() -> Console:
    """Return a console on standard output."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    return console


def print_quantized(
    result: "QuantizeResult", *, seconds: float, peak: int, console: Console | None = None
) -> None:
    """Print what `quantize` found and wrote.

    Parameters
    ----------
    result
        What it returned.
    seconds
        How long it took.
    peak
        The peak memory in bytes.
    console
        Where to print; standard output by default.
    """
    console = console or console_of()
    done = [entry for entry in result.report if entry.error is None]
    if result.n_distinct is None:
        colours = f"{len(result.palette):,} given"
    else:
        colours = f"{len(result.palette):,} of {result.n_distinct:,} distinct"
    how = {
        "exact": "each colour has its own place",
        "palette": "none, the palette was given",
        "converged": f"{result.n_iter:,}, converged",
        "tol": f"{result.n_iter:,}, until the centres hardly moved (tol)",
        "max_iter": f"{result.n_iter:,}, the most allowed (max_iter); more may be better",
    }.get(result.stop_reason, f"{result.n_iter:,}, {result.stop_reason}")
    reads = "pass" if result.n_passes == 1 else "passes"
    lossless = result.psnr == float("inf")
    facts = {
        "Colours": colours,
        "Pixels": f"{pixels(result.n_pixels)} in {_plural(len(done), 'picture')}",
        "PSNR": "lossless" if lossless else f"{result.psnr:.2f} dB",
        "Inertia": f"{result.inertia:.6g}",
        "Iterations": how,
        "Read": f"{size(result.bytes_read)} in {result.n_passes} {reads}",
        "Time": f"{duration(seconds)}, {_rate_of_pixels(result.n_pixels, seconds)}",
        "Peak memory": size(peak),
    }
    swatches = _swatches(result.palette, console) if _has_colours(console) else ()
    most_used = _most_used(result.palette, console)
    print_parts(console, *swatches, most_used, facts_of(facts), *_sources(done, console))


def print_ingested(
    result: "IngestResult", *, seconds: float, peak: int, console: Console | None = None
) -> None:
    """Print what `ingest` wrote; the parameters are those of `print_quantized`."""
    console = console or console_of()
    done = [entry for entry in result.report if entry.error is None]
    n_pixels = sum(entry.height * entry.width for entry in done)
    facts = {
        "Store": shown_path(result.store),
        "Pixels": f"{pixels(n_pixels)} in {_plural(len(done), 'picture')}",
        "Read": size(result.bytes_read),
        "Time": f"{duration(seconds)}, {_rate_of_pixels(n_pixels, seconds)}",
        "Peak memory": size(peak),
    }
    print_parts(console, facts_of(facts), *_sources(done, console))


def print_info(infos: Sequence["ImageInfo"], console: Console | None = None) -> None:
    """Print what is known of one image, or a table of several."""
    console = console or console_of()
    if len(infos) == 1:
        [info] = infos
        facts = {
            "Format": _FORMATS.get(info.format, info.format),
            "Size": f"{_by(info.width, info.height)} pixels",
            "Type": _type(info),
            "Blocks": f"{_by(*info.block[::-1])} pixels",
            "Reading": "from the first row to the last" if info.in_order else "in any order",
            "Stored": size(info.bytes_stored),
            "Decoded": size(info.bytes_decoded),
        }
        title = Text(shown_path(info.path), style="bold")
        print_parts(console, title, facts_of(facts))
        return
    table = _table("Image", "Format", "Type", right=("Size", "Stored", "Decoded"))
    room = max(12, console.width - 66)  # for the path; the rest is for the others
    for info in infos:
        table.add_row(
            _cropped(shown_path(info.path), room),
            _FORMATS.get(info.format, info.format),
            _type(info),
            _by(info.width, info.height),
            size(info.bytes_stored),
            size(info.bytes_decoded),
        )
    totals = (sum(i.bytes_stored for i in infos), sum(i.bytes_decoded for i in infos))
    table.add_row(_plural(len(infos), "picture"), "", "", "", *map(size, totals), style="bold")
    print_parts(console, table)


def print_failures(report: Iterable["SourceReport"], console: Console | None = None) -> int:
    """Print each failed source and the reason to standard error; return how many there are."""
    file = console.file if console else sys.stderr
    failed = [entry for entry in report if entry.error is not None]
    for entry in failed:
        reason = entry.error or ""
        named = reason if reason.startswith(entry.source) else f"{entry.source}: {reason}"
        file.write(f"dkmeans: failed: {printable(named)}\n")
    return len(failed)


def print_facts(facts: dict[str, str], console: Console | None = None) -> None:
    """Print what each fact is called and what it is, a line each."""
    print_parts(console or console_of(), facts_of(facts))


def print_parts(console: Console, *parts: RenderableType) -> None:
    """Print parts with a free line between them; in a terminal also around and a margin."""
    for i, part in enumerate(parts):
        if i or console.is_terminal:
            console.print()
        console.print(Padding(part, (0, 0, 0, 2)) if console.is_terminal else part)
    if console.is_terminal:
        console.print()


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _rate_of_pixels(n_pixels: int, seconds: float) -> str:
    return f"{n_pixels / max(seconds, 1e-3) / 1e6:,.1f} megapixels/s"


def _by(width: int, height: int) -> str:
    return f"{width:,} x {height:,}"


def _type(info: "ImageInfo") -> str:
    bands = {1: "grey", 3: "RGB"}.get(info.bands, f"{info.bands} bands")
    return f"{bands}, {info.dtype}"


def facts_of(facts: dict[str, str]) -> Text:
    """Return names and values in lines."""
    width = max(len(name) for name in facts) + 3
    lines = [Text.assemble((name.ljust(width), "dim"), value) for name, value in facts.items()]
    return Text("\n").join(lines)


def _table(*left: str, right: Sequence[str]) -> Table:
    """Return a table with a row of headings, so far."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in left:
        table.add_column(no_wrap=True)
    for _ in right:
        table.add_column(no_wrap=True, justify="right")
    table.add_row(*left, *right, style="dim")
    return table


def _has_colours(console: Console) -> bool:
    """Whether colours look like themselves: not among the 16 of old terminals, nor in a file."""
    return console.is_terminal and console.color_system in {"truecolor", "256"}


def _style(paper: Sequence[int], ink: Sequence[int] = (0, 0, 0)) -> Style:
    return Style(color=Color.from_rgb(*ink), bgcolor=Color.from_rgb(*paper))


def _swatches(palette: "Palette", console: Console) -> Iterator[RenderableType]:
    """Yield the colours side by side, first as wide as their shares, then all alike."""
    colors = palette.colors.tolist()
    width = min(_WIDTH, console.width - 4)
    if palette.shares is not None and palette.shares.any():
        ends = palette.shares.cumsum()
        middles = [(i + 0.5) / (2 * width) * ends[-1] for i in range(2 * width)]
        halves = [colors[i] for i in ends.searchsorted(middles, side="right")]
        yield Text.assemble(
            *(("▌", _style(b, a)) for a, b in zip(halves[::2], halves[1::2], strict=True))
        )
    columns = 16 if len(colors) <= 64 else 32  # noqa: PLR2004 - four rows of 16, eight of 32
    cell = " " * max(1, width // columns)
    shown = [(cell, _style(color)) for color in colors[:_SWATCHES]]
    rows = [Text.assemble(*shown[i : i + columns]) for i in range(0, len(shown), columns)]
    if len(colors) > len(shown):
        rows.append(Text(f"... and {len(colors) - len(shown):,} more", style="dim"))
    yield Text("\n").join(rows)


def _most_used(palette: "Palette", console: Console) -> RenderableType:
    """Return the colours with the largest shares: in a terminal side by side, else in lines."""
    order = list(range(len(palette)))
    if palette.shares is not None:
        order = (-palette.shares).argsort(kind="stable").tolist()
    entries = []
    for i in order[:_MOST_USED]:
        share = "" if palette.shares is None else f" {palette.shares[i]:6.1%}"
        name = printable(palette.names[i]) if palette.names and palette.names[i] else ""
        swatch = ("  ", _style(palette.colors[i].tolist())) if _has_colours(console) else ""
        entries.append(
            Text.assemble(
                swatch, swatch and " ", palette.hex[i], (share, "dim"), name and f"  {name}"
            )
        )
    if not console.is_terminal or palette.names:
        return Text("\n").join(entries)
    return Columns(entries, padding=(0, 4, 0, 0))


def _sources(done: Sequence["SourceReport"], console: Console) -> Iterator[Table]:
    """Yield a table of what was read and written, if there is anything to tell."""
    if not done:
        return
    table = _table("Source", "Output", right=("Before", "After", "Change"))
    listed = done[:_LISTED]
    sources = [shown_path(entry.source) for entry in listed]
    outputs = [shown_path(entry.output or "") for entry in listed]
    room = max(24, console.width - 40)  # for both; the rest is for the sizes
    left, right = max(map(len, sources)), max(map(len, outputs))
    left = min(left, max(room // 2, room - right))
    for entry, source, output in zip(listed, sources, outputs, strict=True):
        paths = (_cropped(source, left), _cropped(output, room - left))
        table.add_row(*paths, *_sizes(entry.bytes_in, entry.bytes_out))
    if len(done) > _LISTED:
        table.add_row(f"... and {len(done) - _LISTED:,} more")
    if len(done) > 1:
        sizes = _sizes(sum(e.bytes_in for e in done), sum(e.bytes_out for e in done))
        table.add_row(_plural(len(done), "picture"), "", *sizes, style="bold")
    yield table


def _sizes(before: int, after: int) -> tuple[str, str, str]:
    ratio = after / before if before else 1
    change = f"{ratio - 1:+.0%}" if ratio < 2 else f"{ratio:.1f}x"  # noqa: PLR2004 - twice
    if change == "-100%" and after:  # nothing would be left
        change = f"1/{round(before / after)}"
    return size(before), size(after), change


def _cropped(text: str, width: int) -> Text:
    """Return a text without its beginning if it is too long: the end of a path tells more."""
    return Text(text if len(text) <= width else "..." + text[3 - width :])
