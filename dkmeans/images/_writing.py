"""The last pass of `quantize`: what is not yet written is labelled, and each output finished."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dkmeans import _passes
from dkmeans._passes import BlockSource, Passes, Piece
from dkmeans._tiling import Window, grid
from dkmeans.images._assign import Assign, Assigned, OutputPiece, Written
from dkmeans.images._manifest import Done, Job
from dkmeans.images._notes import Noter
from dkmeans.images._outputs import Output, label_windows

_NOTHING = Done()


def write_labels(
    passes: Passes,
    usable: Mapping[int, BlockSource],
    outputs: Mapping[int, Output],
    done: Mapping[int, Done],
    work: Assign,
) -> Assigned:
    """Label and write all that is not done; return all, by index of the source."""
    if work.measure:
        done = {i: d for i, d in done.items() if i in usable and _is_told(d, outputs[i], usable[i])}
    pieces = pieces_of(usable, outputs, done)
    made = Assigned()
    if pieces:
        made = passes.run("write", work, _passes.partition(pieces), Assigned.merge)
    written = {index: _before(done[index]) for index in usable if index in done}
    for index, part in made.written.items():
        written[index] = _joined(written[index], part) if index in written else part
    return Assigned(written, made.failures)


def finish(
    outputs: Mapping[int, Output], written: Mapping[int, Written], job: Job
) -> dict[int, int]:
    """Finish all outputs whose parts are written; return the sizes of all."""
    if any(parts.nbytes is None for parts in written.values()):
        job.check()
    notes = job.journal.file()
    sizes = {}
    for index, parts in written.items():
        noter = Noter(notes, index, lambda: (None, 0))
        nbytes = parts.nbytes
        sizes[index] = (
            outputs[index].finish(parts.entries, noter.finished) if nbytes is None else nbytes
        )
    return sizes


def pieces_of(
    usable: Mapping[int, BlockSource], outputs: Mapping[int, Output], done: Mapping[int, Done]
) -> list[Piece]:
    """Return of each source the windows that its output takes and that are not all written."""
    pieces: list[Piece] = []
    for index, source in usable.items():
        before = done.get(index, _NOTHING)
        if before.nbytes is not None:
            continue
        output = outputs[index]
        height, width, _ = source.shape
        size = label_windows(output.unit, height, width, source.block, source.read_block)
        left: Sequence[Window] = grid(height, width, size)
        if before.entries:
            left = tuple(w for w in left if not before.entries.keys() >= set(output.keys(w)))
        if left:
            pieces.append(OutputPiece(index, source, left, output))
    return pieces


def _is_told(done: Done, output: Output, source: BlockSource) -> bool:
    """Return whether notes tell of all labels of a finished file, which itself tells of no uses."""
    whole = Window(0, 0, *source.shape[:2])
    return done.nbytes is None or done.entries.keys() >= set(output.keys(whole))


def _before(done: Done) -> Written:
    return Written(tuple(done.entries.values()), done.nbytes, done.uses, done.error)


def _joined(before: Written, now: Written) -> Written:
    """Return both; windows that were cut otherwise before can bring entries that were there."""
    if not before.entries:
        return now
    known = {entry.key for entry in before.entries}
    fresh = tuple(entry for entry in now.entries if entry.key not in known)
    return before.merge(replace(now, entries=fresh))
