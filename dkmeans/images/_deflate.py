"""Deflate (RFC 1951): fast or small, and with the same bytes in any process."""

import zlib
from typing import Literal

from isal import isal_zlib

Compression = Literal["fast", "small"]

_FIRST = 16  # bytes


def deflate(data: memoryview, compression: Compression, *, wbits: int, flush: int) -> bytes:
    """Compress bytes that others may follow, or none, as `wbits` and `flush` tell; see `zlib`."""
    if compression == "small":
        slow = zlib.compressobj(6, wbits=wbits, memLevel=9)
        return slow.compress(data) + slow.flush(flush)
    encoder = isal_zlib.compressobj(2, wbits=wbits)
    # Where a stream begins, ISA-L looks for one match under the address of its own state, another
    # in each process (igzip_icf_body_h1_gr_bt.asm, `write_first_byte`: a register is not set). So
    # it begins with bytes so few that they are dealt with elsewhere, which costs 8 more of output.
    parts = [encoder.compress(data[:_FIRST]), encoder.flush(zlib.Z_SYNC_FLUSH)]
    return b"".join([*parts, encoder.compress(data[_FIRST:]), encoder.flush(flush)])
