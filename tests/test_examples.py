"""The examples: each draws its pictures, and finds what is there."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "examples"
DOCS = ROOT / "docs" / "examples.md"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem != "figures")
MOST_BYTES = 300_000


@pytest.fixture
def example(monkeypatch):
    """Import an example as Python does when it is run."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def check_pictures(folder, *names):
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(names)
    for name in names:
        path = folder / name
        with Image.open(path) as image:
            assert image.mode == ("RGB" if name == "many-blobs.png" else "P")
            assert min(image.size) >= 300
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
        assert path.stat().st_size <= MOST_BYTES


def test_blobs(example, tmp_path):
    agreement = example("blobs").run(tmp_path)
    check_pictures(tmp_path, *(f"{name}.png" for name in agreement))
    assert agreement["blobs-3"] > 0.95
    assert 0.7 < agreement["blobs-4"] < 0.95
    assert agreement["blobs-max-iter"] == agreement["blobs-3"]
    assert 0.8 < agreement["blobs-wide"] < 0.95


def test_digits(example, tmp_path):
    scores = example("digits").run(tmp_path)
    check_pictures(tmp_path, "digits-centres.png", "digits-pca.png")
    assert scores["adjusted Rand"] > 0.6
    assert scores["v-measure"] > 0.7


def test_colours(example, tmp_path):
    numbers = example("colours").run(tmp_path)
    check_pictures(tmp_path, "colours.png")
    assert numbers["n_distinct"] == 96_615
    assert numbers["psnr"] > 32


def test_many_blobs(example, tmp_path):
    rows = 300_000  # more than a summary holds
    numbers = example("many_blobs").run(tmp_path, rows, chunk=100_000)
    check_pictures(tmp_path, "many-blobs.png")
    assert numbers["counts"] == rows
    assert numbers["drawn"] == pytest.approx(rows, rel=1e-3)  # few lie outside the frame
    assert numbers["worst"] < 0.05  # standard error: 1 / sqrt(30_000) for each of 8 features
    assert 2 <= numbers["n_passes"] <= 6


def test_patches(example, tmp_path):
    china = tmp_path / "photos" / "china.jpg"
    china.parent.mkdir()
    Image.fromarray(load_sample_image("china.jpg")[:240, :320]).save(china)
    numbers = example("patches").run(tmp_path / "out", china.parent, china, n_clusters=30)
    check_pictures(tmp_path / "out", "patches-centres.png", "patches-rebuilt.png")
    assert numbers["n_rows"] == (240 // 8) * (320 // 8)
    assert numbers["psnr"] > 17


def test_patches_are_cut_and_pasted(example):
    patches = example("patches")
    image = load_sample_image("flower.jpg")
    rows = patches.cut(image)
    assert rows.shape == (427 // 8, 640 // 8, 192)
    np.testing.assert_array_equal(rows[1, 2].reshape(8, 8, 3), image[8:16, 16:24])
    np.testing.assert_array_equal(patches.paste(rows), image[:424])


def test_each_example_is_documented():
    assert set(re.findall(r"scripts/example (\w+)", DOCS.read_text())) == set(NAMES)


def test_each_picture_is_in_the_docs():
    shown = set(re.findall(r"\(images/([\w-]+\.png)\)", DOCS.read_text()))
    assert shown == {path.name for path in (DOCS.parent / "images").glob("*.png")}
    assert all((DOCS.parent / "images" / name).stat().st_size <= MOST_BYTES for name in shown)


def test_the_code_in_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL))
    exec(compile(code.replace("100_000_000", "300_000"), DOCS.name, "exec"), {})  # noqa: S102 - ours
