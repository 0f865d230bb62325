"""Warnings as sentences for the user, without the line of code that Python prints with them."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def warnings_to(tell: Callable[[str], None]) -> Iterator[None]:
    """Hand each warning's sentence to `tell`, the same sentence once, instead of printing it.

    Warnings meant for users (`UserWarning`) always get there; what becomes of others is up to
    Python's filters.
    """
    told: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        sentence = str(message)
        if sentence not in told:
            told.add(sentence)
            tell(sentence)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
