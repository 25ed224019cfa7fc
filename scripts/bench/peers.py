"""The other libraries and programs: whether they are here, and how to get those that are not."""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Peer:
    """A library or a program.

    Attributes
    ----------
    module
        What Python imports; empty for a program.
    commands
        Names of the program, one of which must be found; for a library, of a program it needs.
    install
        How to get it, in a few words.
    """

    module: str
    commands: tuple[str, ...]
    install: str


_DEBIAN = "from your system's packages (Debian: {})"

PEERS = {
    "scikit-learn-intelex": Peer("sklearnex", (), "pip install scikit-learn-intelex"),
    "FAISS": Peer("faiss", (), "pip install faiss-cpu"),
    "Spark": Peer(
        "pyspark",
        ("java",),
        f"pip install pyspark pyarrow, and Java {_DEBIAN.format('openjdk-17-jre-headless')}",
    ),
    "libimagequant": Peer("imagequant", (), "pip install imagequant"),
    "ImageMagick": Peer(
        "", ("magick", "convert-im7", "convert-im6"), _DEBIAN.format("imagemagick")
    ),
    "GDAL": Peer("", ("rgb2pct.py", "rgb2pct"), _DEBIAN.format("gdal-bin and python3-gdal")),
}


def program(name: str) -> str | None:
    """Return the path of the program of a peer, if there is one."""
    found = (shutil.which(command) for command in PEERS[name].commands)
    return next((path for path in found if path), None)


def missing(name: str) -> str:
    """Return how to get a peer that is not here; nothing if it is, or none is named."""
    if not name:
        return ""
    peer = PEERS[name]
    here = not peer.module or find_spec(peer.module) is not None
    if here and (not peer.commands or program(name)):
        return ""
    return f"not installed: {peer.install}"
