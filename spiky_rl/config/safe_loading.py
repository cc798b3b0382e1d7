"""YAML and JSON that people write: read within limits, so that no file hangs, fills the memory or means something else.

Of YAML, what configurations need: text, numbers, ``true`` and ``false``, lists, mappings with text for keys, aliases and
merge keys (``<<:``). No tags, and nothing that YAML 1.1 makes of text: ``2024-01-01`` is text and no date, ``1:30`` is not 90,
``010`` is not 8, ``on`` and ``no`` are text. A key that stands twice, a number that is not finite or has no place in 64 bits, an alias that contains itself
and one that multiplies are errors that name the key or the line.
"""

from __future__ import annotations

import copy
import errno
import functools
import io
import json
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, override

import yaml
from yaml import Event, MappingNode, Node, ScalarNode

from spiky_rl.config.options import (
    LARGEST_INTEGER,
    RegistryError,
    Settings,
    UserError,
    find_repeated,
    shorten,
)
from spiky_rl.config.plain_data import PlainValue

MAX_DEPTH = 64
"""Lists and mappings inside each other."""
MAX_NODES = 20_000
"""Values of a YAML text, with what its aliases stand for: the largest of ours has 200."""
MAX_BYTES = 2**28
"""Bytes of a file: a result with a long curve has some 10^5."""
LONGEST_YAML = 2**20
"""Characters of a YAML text, which take a second to read: the largest of ours has 4,000."""


class ReadingError(UserError):
    """A text that is no YAML or JSON, or holds what a configuration cannot."""


NO_FILE = "it is no file"


def open_regular(path: Path) -> BinaryIO:
    """Open the file ``path`` to read its bytes. Raises OSError that names it for what has no end or waits for a writer: a pipe, a device.

    Every file that a user or another program may have put there is opened here.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is open at once
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise PermissionError(errno.EACCES, NO_FILE, str(path))


def read_regular(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of the file ``path``, ``most`` of them. Raises OSError that names it, as `open_regular` and where it is longer."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # a file of the kernel's says that it is empty, and has more
        data = b"" if size > most else file.read(most + 1)
    if max(size, len(data)) > most:
        raise OSError(errno.EFBIG, f"{max(size, len(data)):,} bytes; at most {most:,}", str(path))
    return data


def read_text(path: Path) -> str:
    """The text of the regular file ``path``, with its lines' ends as one character. Raises OSError and UnicodeDecodeError."""
    return io.StringIO(read_regular(path).decode("utf-8"), newline=None).getvalue()


def read_file[T](path: Path, parse: Callable[[str], T]) -> T:
    """Read the file ``path`` and ``parse`` its text. Raises ReadingError that names the file, and what is wrong."""
    try:
        text = read_text(path)
    except IsADirectoryError:
        raise ReadingError(f"cannot read {str(path)!r}: {NO_FILE}") from None
    except OSError as error:
        raise ReadingError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        kind = "no JSON" if parse is parse_json else "not valid YAML"
        raise ReadingError(f"{path}: {kind}: {error}") from None
    try:
        return parse(text)
    except ReadingError as error:
        raise ReadingError(f"{path}: {error}") from None


def read_json_record[R: Settings](path: Path, kind: type[R]) -> R:
    """What the JSON file ``path`` says of a ``kind``. Raises ReadingError that names the file, and the key or the line."""
    data = read_file(path, parse_json)
    try:
        return kind.check("", data)
    except RegistryError as error:
        raise ReadingError(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML ``text``, the caller's own. Raises ReadingError that names the key, or the line."""
    if len(text) > LONGEST_YAML:
        raise ReadingError(f"not valid YAML: {len(text):,} characters; at most {LONGEST_YAML:,}")
    return copy.deepcopy(_parsed(text))


@functools.lru_cache(maxsize=128)  # a study asks for the same few files for each of its cells
def _parsed(text: str) -> Any:
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ReadingError(f"not valid YAML: {' '.join(str(error).split())}") from None
    return _check_value(value)


def parse_json(text: str) -> Any:
    """The value of a JSON ``text``. Raises ReadingError that names the key, or the line."""
    try:
        value = json.loads(text, object_pairs_hook=_check_unique_keys)
    except RecursionError:
        raise ReadingError(f"no JSON: nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ReadingError(f"no JSON: {error}") from None
    return _check_value(value)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader without tags, dates and base 60, with limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth, self.nodes = 0, 0
        self.sizes: dict[int, int] = {}
        """Identity of a node that is read -> its values, with those of aliases."""

    @override
    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """As the parent's, within the limits and without tags."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = self.anchors.get(event.anchor)
            if node is not None and id(node) not in self.sizes:
                raise _format_yaml_error(
                    f"the alias *{event.anchor} stands inside of what it stands for", event
                )
            self._count(0 if node is None else self.sizes[id(node)], event)
            return super().compose_node(parent, index)
        if getattr(event, "tag", None) is not None:
            raise _format_yaml_error(f"the tag {event.tag} is not read; write the value alone", event)
        before = self.nodes
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _format_yaml_error(f"nested more than {MAX_DEPTH} deep", event)
        self._count(1, event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.sizes[id(node)] = self.nodes - before
        return node

    @override
    def compose_mapping_node(self, anchor: dict[str, Node]) -> MappingNode:
        """As the parent's, with keys that are text and stand once. Keys are compared before merge keys add theirs."""
        mapping = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in mapping.value:
            if not isinstance(key, ScalarNode):
                raise _format_yaml_error("a list or a mapping cannot be a key", key)
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise _format_yaml_error(f"the key {shorten(key.value)} is no text; write it in quotes", key)
            if key.value in seen:
                raise _format_yaml_error(f"the key {shorten(key.value)} stands twice", key)
            seen.add(key.value)
        return mapping

    def _count(self, nodes: int, event: Event) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise _format_yaml_error(f"more than {MAX_NODES:,} values, with those of aliases", event)


def _format_yaml_error(problem: str, where: Event | Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


_LEFT_OUT = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "value", "int", "float", "bool")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _LEFT_OUT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def _check_unique_keys(pairs: list[tuple[str, PlainValue]]) -> dict[str, PlainValue]:
    """A JSON object without a key that stands twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shorten(find_repeated(names))} stands twice")
    return value


def _check_value[T](value: T) -> T:
    """The value, if all that is in it can be a configuration's."""

    def check(node: object, path: str, depth: int) -> None:
        where = f"{path}: " if path else ""
        if depth > MAX_DEPTH:
            raise ReadingError(f"{re.split('[.[]', path)[0]}: nested more than {MAX_DEPTH} deep")
        if isinstance(node, dict):
            for key, below in node.items():
                check(key, path, depth)
                check(below, f"{path}.{key}" if path else key, depth + 1)
        elif isinstance(node, list):
            for i, below in enumerate(node):
                check(below, f"{path}[{i}]", depth + 1)
        elif isinstance(node, float) and not math.isfinite(node):
            raise ReadingError(f"{where}expected a finite number, got {node}")
        elif isinstance(node, int) and not -LARGEST_INTEGER <= node <= LARGEST_INTEGER:
            raise ReadingError(
                f"{where}{shorten(node)} is out of range; whole numbers are at most {LARGEST_INTEGER}"
            )
        elif isinstance(node, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node):
            raise ReadingError(f"{where}{shorten(node)} holds a character that is none")

    check(value, "", 0)
    return value
