"""Commands and Python code that README and guides show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "isaaclab_mujoco" / "README.md",
    ROOT / "isaaclab_mujoco" / "docs" / "guide.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:spiky|python scripts/\w+\.py) [^`]+)`(?!`)", re.DOTALL)
SCRIPT = re.compile(r"^(?:scripts/)?(\w+)\.py$")


def read_commands(page: Path) -> list[list[str]]:
    """Every command line of a page's blocks, as words without its comment; lines that end in a backslash go on."""
    found = []
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("", "sh", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                try:
                    words = shlex.split(line, comments=True)
                except ValueError:  # a drawing, or a message with an apostrophe
                    continue
                found += [words] if words else []
    return found


def read_inline_commands(page: Path) -> list[list[str]]:
    """Every command within a sentence of a page, as words."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [shlex.split(" ".join(line.split()), comments=True) for line in INLINE.findall(text)]


def read_python(page: Path) -> list[str]:
    """Every block of Python of a page."""
    return [
        code for language, code in FENCE.findall(page.read_text(encoding="utf-8")) if language == "python"
    ]


def find_own_command(words: list[str]) -> tuple[str, list[str]] | None:
    """A verb of ours with its arguments, such as ("train", ["--task", ...]); None for a command of another program."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:1] == ["spiky"] and len(words) > 1:
        return words[1], words[2:]
    for first in ("python", "torchrun"):
        if words[:1] == [first]:
            for i, word in enumerate(words):
                if word.startswith("scripts/") and (script := SCRIPT.match(word)):
                    return script[1], words[i + 1 :]
    return None
