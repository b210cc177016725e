"""Of somebody else's error a message has one line, however it is made."""

import pytest

from pipeline.errors import first_line


@pytest.mark.parametrize(
    ("error", "most", "line"),
    [
        (ValueError("what is wrong\nand where"), 200, "what is wrong"),
        (ValueError("\n  what is wrong"), 200, "what is wrong"),
        (ValueError(), 200, "ValueError"),
        (AssertionError("\n"), None, "AssertionError"),
        (OSError("x" * 300), 200, "x" * 200),
        (OSError("x" * 300), None, "x" * 300),
    ],
)
def test_the_first_line_of_an_error(error, most, line):
    assert first_line(error, most) == line
