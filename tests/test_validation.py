"""Each check: what passes, what is refused, and what the message says."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import dkmeans
from dkmeans._validation import (
    DkmeansError,
    InvalidArgumentError,
    OutputError,
    SourceError,
    check_choice,
    check_integer,
    check_number,
    check_place,
)


@pytest.mark.parametrize("value", [1, 256, np.int64(7), np.uint8(7)])
def test_integers_of_the_range_pass(value):
    checked = check_integer("n_colors", value, 1, 256)
    assert type(checked) is int
    assert checked == value


@pytest.mark.parametrize("value", [0, 257, -1, 2.0, "8", None, True, np.bool_(1), np.nan])
def test_other_integers_are_refused(value):
    with pytest.raises(InvalidArgumentError) as caught:
        check_integer("n_colors", value, 1, 256, "the size of a palette")
    message = str(caught.value)
    assert "n_colors" in message
    assert repr(value) in message
    assert "from 1 to 256 (the size of a palette)" in message


def test_an_integer_may_have_no_upper_bound():
    assert check_integer("seed", 10**30, 0) == 10**30
    with pytest.raises(InvalidArgumentError, match=r"seed is -1; .* at least 0\.$"):
        check_integer("seed", -1, 0)


def test_a_choice_is_one_of_those_allowed():
    assert check_choice("dither", "none", ("none", "blue-noise")) == "none"
    with pytest.raises(InvalidArgumentError, match=r"dither is 'floyd'; .* none, blue-noise"):
        check_choice("dither", "floyd", ("none", "blue-noise"))


@pytest.mark.parametrize("value", [0, 1e-4, np.float32(0.5), Fraction(1, 2), 10**9])
def test_finite_numbers_of_at_least_the_bound_pass(value):
    checked = check_number("tol", value, 0)
    assert type(checked) is float
    assert checked == value


@pytest.mark.parametrize("value", [-1e-9, np.inf, np.nan, "1", None, False, 1j])
def test_other_numbers_are_refused(value):
    with pytest.raises(InvalidArgumentError, match=r"tol is .* at least 0"):
        check_number("tol", value, 0)


def test_every_error_is_caught_by_the_one_base():
    for error in (InvalidArgumentError, SourceError, OutputError):
        assert issubclass(error, DkmeansError)
    assert issubclass(InvalidArgumentError, ValueError)


@pytest.mark.parametrize("place", ["a.png", Path("b/c"), "s3://bucket/name", "."])
def test_places_may_be_paths_and_urls(place):
    check_place("path", place)


@pytest.mark.parametrize("place", [None, 3, b"a.png", "", "a\0.png", Path("a\0b")])
def test_what_names_nothing_is_refused(place):
    with pytest.raises(InvalidArgumentError) as caught:
        check_place("path", place)
    assert (
        str(caught.value)
        == f"path is {place!r}; it must be a path, or a URL such as s3://bucket/name."
    )


@pytest.mark.parametrize("job", [dkmeans.quantize, dkmeans.ingest])
def test_progress_that_cannot_be_told(job):
    with pytest.raises(InvalidArgumentError, match="progress is 3; it must be None, or have the"):
        job("nothing.png", "out.zarr", progress=3)
