"""The order of the rooms, and what importing costs."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dkmeans
from dkmeans import _validation

ROOT = Path(dkmeans.__file__).parent

# A room imports from lower floors only, and may be split over modules that begin with its name.
# `_validation` is the ground: its errors are everybody's.
FLOORS = (
    ("_validation",),
    ("_stores",),
    ("_documents",),
    ("_kernels", "_tiling", "_palette"),
    ("_passes", "_frame"),
    ("_tables",),
    ("_summary",),
    ("_seeding",),
    ("_lloyd",),
    ("_minibatch", "_model", "_checkpoint", "_needs"),
    ("_estimators", "images"),
    ("_jobs", "_plan"),
    ("_report",),
    ("_cli",),
)

# The only rooms or modules that may name a library, anywhere; other libraries are free.
HOMES = {
    "numba": {"_kernels.compile"},
    "llvmlite": {"_kernels.changes", "_kernels.offsets", "_kernels.vectors", "_kernels.writer"},
    "click": {"_cli"},
    "obstore": {"_stores"},
    "rich": {"_cli", "_report"},
}

HEAVY = {"numba", "dask", "distributed", "rasterio", "sklearn", "zarr", "numpy", "PIL", "rich"}

MAX_MODULE = 420
MAX_FUNCTION = 60


@cache
def modules():
    """Every module but the door and its back door: dotted name below dkmeans -> syntax tree."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name not in ("", "__main__"):
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def room(module):
    """The room of a module and its floor."""
    for floor, rooms in enumerate(FLOORS):
        for name in rooms:
            if module == name or module.startswith((f"{name}.", f"{name}_")):
                return name, floor
    raise AssertionError(f"{module} has no floor: add its room to FLOORS")


def imports(tree):
    """Yield the absolute name of all that a module imports, down to the name imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner_imports(tree):
    """Yield the dkmeans modules that a module imports."""
    for name in imports(tree):
        if name.split(".")[0] == "dkmeans":
            inside = name.removeprefix("dkmeans").lstrip(".")
            while inside and inside not in modules():
                inside = inside.rpartition(".")[0]  # a name of a module
            assert inside, f"{name} is imported from the package root, which is for users only"
            yield inside


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module):
    own_room, own_floor = room(module)
    for target in inner_imports(modules()[module]):
        other_room, other_floor = room(target)
        assert other_room == own_room or other_floor < own_floor, f"{module} imports {target}"


def test_no_import_cycle():
    # A package's own __init__ may import its modules: it is their door, not their dependency.
    graph = {name: set(inner_imports(tree)) - {name} for name, tree in modules().items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("module", modules())
def test_each_library_has_one_room(module):
    here = {module, room(module)[0]}
    for name in imports(modules()[module]):
        library = name.split(".")[0]
        assert here & HOMES.get(library, here), f"{module} names {library}"


@pytest.mark.parametrize(
    ("library", "wings"), [("rasterio", {"images"}), ("zarr", {"images", "_tables"})]
)
def test_each_format_library_has_one_module_in_a_wing(library, wings):
    users = [
        room(name)[0]
        for name, tree in modules().items()
        if library in {imported.split(".")[0] for imported in imports(tree)}
    ]
    assert len(users) == len(set(users))
    assert set(users) <= wings


@pytest.mark.parametrize("module", modules())
def test_distributed_is_imported_when_needed_only(module):
    outside = [node for node in modules()[module].body if not isinstance(node, ast.FunctionDef)]
    for node in outside:
        for name in imports(node):
            assert name.split(".")[0] != "distributed"


@pytest.mark.parametrize("module", modules())
def test_sizes_stay_pleasant(module):
    tree = modules()[module]
    assert max((node.end_lineno for node in tree.body), default=0) <= MAX_MODULE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            # What is done, without what is said of it: signature and docstring.
            done = node.body[1:] if ast.get_docstring(node) else node.body
            length = done[-1].end_lineno - done[0].lineno + 1 if done else 0
            assert length <= MAX_FUNCTION, node.name


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("dkmeans", HEAVY),
        # The command line draws its help with rich; what works on data comes later.
        ("dkmeans._cli", HEAVY - {"rich", "numpy", "PIL"}),
    ],
)
def test_import_is_light(module, heavy):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(run.stdout.split())


@pytest.mark.parametrize("name", dkmeans.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(dkmeans, name)
    assert value.__doc__
    assert name in dir(dkmeans)


def test_every_error_is_public():
    errors = {name for name in vars(_validation) if name.endswith("Error")}
    assert errors
    assert errors <= set(dkmeans.__all__)


def test_no_other_public_name():
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = dkmeans.quantise
    assert sorted(dkmeans.__all__) == dkmeans.__all__


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert dkmeans.__version__ == project["project"]["version"]
