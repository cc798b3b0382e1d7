"""Readers of YAML and JSON files with limits on size, depth and content.

YAML is restricted to text, numbers, ``true`` and ``false``, lists, mappings with text keys, aliases and merge keys (``<<:``).
There are no tags and no implicit types of YAML 1.1: ``2024-01-01`` is text, ``1:30`` is not 90, ``010`` is not 8, ``on`` and
``no`` are text. Refused are repeated keys, numbers that are not finite or exceed 64 bits, recursive aliases, and
aliases that expand to too many values; the message names the key or the line.
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
"""Levels of nested lists and mappings."""
MAX_NODES = 20_000
"""Values of a YAML text with aliases expanded; the largest file of the package has 200."""
MAX_BYTES = 2**28
"""Bytes of a file; a result with a long curve has some 10^5."""
MAX_YAML_CHARACTERS = 2**20
"""Characters of a YAML text, read in about a second; the largest file of the package has 4,000."""


class ReadingError(UserError):
    """Text that is not valid YAML or JSON, or exceeds the limits of a configuration."""


NOT_A_FILE = "it is not a regular file"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError naming the path for a folder, a pipe or a device, without blocking.

    All files from users and other programs are opened with this function.
    """
    # non-blocking: a pipe opens at once
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise PermissionError(errno.EACCES, NOT_A_FILE, str(path))


def read_regular(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file. Raises OSError naming the path, also if the file is longer than ``max_bytes``."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # files in /proc report size 0 but have content
        data = b"" if size > max_bytes else file.read(max_bytes + 1)
    if max(size, len(data)) > max_bytes:
        raise OSError(errno.EFBIG, f"{max(size, len(data)):,} bytes; at most {max_bytes:,}", str(path))
    return data


def read_text(path: Path) -> str:
    r"""Read a regular text file with ``\n`` as line ends. Raises OSError and UnicodeDecodeError."""
    return io.StringIO(read_regular(path).decode("utf-8"), newline=None).getvalue()


def read_file[T](path: Path, parse: Callable[[str], T]) -> T:
    """Read and ``parse`` a text file. Raises ReadingError that names the file and the fault."""
    try:
        text = read_text(path)
    except IsADirectoryError:
        raise ReadingError(f"cannot read {str(path)!r}: {NOT_A_FILE}") from None
    except OSError as error:
        raise ReadingError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        language = "JSON" if parse is parse_json else "YAML"
        raise ReadingError(f"{path}: not valid {language}: {error}") from None
    try:
        return parse(text)
    except ReadingError as error:
        raise ReadingError(f"{path}: {error}") from None


def read_json_record[R: Settings](path: Path, record_class: type[R]) -> R:
    """Read a JSON file as an instance of ``record_class``. Raises ReadingError that names the file and the key or line."""
    data = read_file(path, parse_json)
    try:
        return record_class.check("", data)
    except RegistryError as error:
        raise ReadingError(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    """Parse a YAML text. Raises ReadingError that names the key or the line."""
    if len(text) > MAX_YAML_CHARACTERS:
        raise ReadingError(f"not valid YAML: {len(text):,} characters; at most {MAX_YAML_CHARACTERS:,}")
    return copy.deepcopy(_parse_cached(text))


@functools.lru_cache(maxsize=128)  # a study reads the same few files for each of its cells
def _parse_cached(text: str) -> Any:
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ReadingError(f"not valid YAML: {' '.join(str(error).split())}") from None
    return _check_value(value)


def parse_json(text: str) -> Any:
    """Parse a JSON text. Raises ReadingError that names the key or the line."""
    try:
        value = json.loads(text, object_pairs_hook=_check_unique_keys)
    except RecursionError:
        raise ReadingError(f"not valid JSON: nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ReadingError(f"not valid JSON: {error}") from None
    return _check_value(value)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits, without tags, dates and base 60."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth, self.nodes = 0, 0
        self.sizes: dict[int, int] = {}
        """``id`` of a composed node -> number of its values with aliases expanded."""

    @override
    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose a node; refuse tags, recursive aliases and nodes beyond the limits."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = self.anchors.get(event.anchor)
            if node is not None and id(node) not in self.sizes:
                raise _make_yaml_error(f"the alias *{event.anchor} contains itself", event)
            self._count(0 if node is None else self.sizes[id(node)], event)
            return super().compose_node(parent, index)
        if getattr(event, "tag", None) is not None:
            raise _make_yaml_error(f"the tag {event.tag} is not allowed; write the value alone", event)
        before = self.nodes
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _make_yaml_error(f"nested more than {MAX_DEPTH} deep", event)
        self._count(1, event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.sizes[id(node)] = self.nodes - before
        return node

    @override
    def compose_mapping_node(self, anchor: dict[str, Node]) -> MappingNode:
        """Compose a mapping; refuse keys that are not text or repeated. Keys from ``<<`` are merged after this check."""
        mapping = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in mapping.value:
            if not isinstance(key, ScalarNode):
                raise _make_yaml_error("a list or a mapping cannot be a key", key)
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise _make_yaml_error(f"the key {shorten(key.value)} is not text; write it in quotes", key)
            if key.value in seen:
                raise _make_yaml_error(f"the key {shorten(key.value)} is given twice", key)
            seen.add(key.value)
        return mapping

    def _count(self, nodes: int, event: Event) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise _make_yaml_error(f"more than {MAX_NODES:,} values with aliases expanded", event)


def _make_yaml_error(problem: str, location: Event | Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=location.start_mark)


_DISABLED_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "value", "int", "float", "bool")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DISABLED_TAGS]
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
    """Return a JSON object as a dict. Raises ValueError if a key is repeated."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shorten(find_repeated(names))} is given twice")
    return value


def _check_value[T](value: T) -> T:
    """Return ``value`` unchanged. Raises ReadingError if anything in it is not allowed in a configuration."""

    def check(node: object, path: str, depth: int) -> None:
        prefix = f"{path}: " if path else ""
        if depth > MAX_DEPTH:
            top_level_key = re.split("[.[]", path)[0]
            raise ReadingError(f"{top_level_key}: nested more than {MAX_DEPTH} deep")
        if isinstance(node, dict):
            for key, below in node.items():
                check(key, path, depth)
                check(below, f"{path}.{key}" if path else key, depth + 1)
        elif isinstance(node, list):
            for i, below in enumerate(node):
                check(below, f"{path}[{i}]", depth + 1)
        elif isinstance(node, float) and not math.isfinite(node):
            raise ReadingError(f"{prefix}expected a finite number, got {node}")
        elif isinstance(node, int) and not -LARGEST_INTEGER <= node <= LARGEST_INTEGER:
            raise ReadingError(
                f"{prefix}{shorten(node)} is out of range; whole numbers are at most {LARGEST_INTEGER}"
            )
        elif isinstance(node, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node):
            raise ReadingError(f"{prefix}{shorten(node)} contains an invalid character")

    check(value, "", 0)
    return value
