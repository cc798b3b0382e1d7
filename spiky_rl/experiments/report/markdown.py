"""Text of a study in Markdown: names and error messages are shown as they are, whatever they are made of."""

from __future__ import annotations

import re

TAG = re.compile(r"<(?=[A-Za-z/!?])")
"""What opens an element of HTML; in ``< 0.001`` it does not."""


def plain(text: str) -> str:
    """The ``text`` on one line: no HTML, no link or image, no code and no emphasis in it."""
    text = TAG.sub("&lt;", text.replace("&", "&amp;"))
    text = re.sub(r"([`*\\])", r"\\\1", text).replace("](", "]\\(")
    return " ".join(text.splitlines())


def cell(text: str) -> str:
    """The ``text`` as a table's cell, which may have several lines."""
    return "<br>".join(plain(line).replace("|", "\\|") for line in text.splitlines())


def fence(text: str) -> str:
    """Backquotes that the ``text`` of a code block does not end by its own."""
    runs = re.findall(r"`{3,}", text)
    return "`" * max([3, *(len(run) + 1 for run in runs)])
