"""Warnings as sentences."""

import warnings

import pytest

from fedm2ct.pipeline.notices import warnings_to


def test_each_sentence_once_and_without_code():
    told = []
    with warnings_to(told.append):
        for text in ("short detector", "short detector", "odd protocol"):
            warnings.warn(text, UserWarning, stacklevel=1)
    assert told == ["short detector", "odd protocol"]


def test_python_s_own_way_is_back_afterwards():
    before = warnings.showwarning, warnings.filters[:]
    with pytest.raises(ValueError, match="x"), warnings_to(print):
        raise ValueError("x")
    assert (warnings.showwarning, warnings.filters[:]) == before


def test_other_warnings_still_follow_the_filters():
    with warnings_to(print), pytest.raises(RuntimeWarning):
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
