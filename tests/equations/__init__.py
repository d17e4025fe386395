"""Tests of the numbered equations: each holds a library function against its formula, written out slowly.

    from equations import equation

    @equation("2.3", function="adlib.coreset.covering_radius")
    def test_covering_radius():
        ...

book/tools/ledger.py reads these marks from the source, tests/book/test_notation.py holds them against
the `\\tag{…}` of the notebooks.
"""

from __future__ import annotations

import pytest


def equation(tag: str, *, function: str) -> pytest.MarkDecorator:
    """Mark a test with the equation `tag` ("2.3") and the dotted name of the library function that it tests.

    Both must be literal strings, since they are read from the source. One test may carry several marks.
    """
    return pytest.mark.equation(tag, function=function)
