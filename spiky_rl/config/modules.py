"""Importing modules by name and files by path, with errors of one line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import re
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType

from spiky_rl.config.errors import get_error_text
from spiky_rl.config.options import RegistryError, shorten

log = logging.getLogger(__name__)

FILE = "spiky_rl_file_"
"""Prefix of the names of modules that are files outside of packages, see `name_module`."""
_DIGESTS: dict[str, str] = {}
"""Digest of each loaded file by the name of its module."""


def load_module(target: str) -> ModuleType:
    """Import ``target``, a module name or a ``.py`` file. Raises RegistryError of one line if the import fails in any way."""
    if target.endswith(".py"):
        return _load_file(Path(target))
    if target.startswith("."):
        raise RegistryError(f"{target!r} is a relative name; write the full name of the module")
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        raise RegistryError(f"there is no module {error.name!r}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise RegistryError(f"the module {target!r} cannot be imported: {format_exception(error)}") from error


def format_exception(error: BaseException, file: str | None = None) -> str:
    """Return one line on an exception from code outside the package: file, line, class and message.

    The line is that of the innermost call in ``file``, or of the innermost call of all if ``file`` is None.
    """
    innermost_first = traceback.extract_tb(error.__traceback__)[::-1]
    frame = next((f for f in innermost_first if file is None or os.path.abspath(file) == f.filename), None)
    line = "" if frame is None else f"{file or frame.filename}, line {frame.lineno}"
    text = f"{type(error).__name__}: {get_error_text(error)}"
    if isinstance(error, SystemExit):
        text = f"it exits the program (exit code {error.code}); a component may not"
    return ": ".join(filter(None, (line or file, " ".join(text.split()))))


def name_module(path: Path) -> str:
    """Return the name under which the file ``path`` is loaded as a module: an identifier, as TorchScript requires, with the path in it."""
    name = str(path.resolve())
    return FILE + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


def find_module_file(module: str) -> str:
    """Return the path in a ``module``'s name from `name_module`; any other name as it is."""
    if not module.startswith(FILE):
        return module
    return re.sub("_([0-9a-f]+)_", lambda code: chr(int(code[1], 16)), module.removeprefix(FILE))


def _load_file(path: Path) -> ModuleType:
    """Return the file ``path`` as a module, executed at the first call; a warning is logged if the file has changed since."""
    key = name_module(path)
    if key not in sys.modules:
        if not os.path.isfile(path):
            raise RegistryError(f"there is no file {shorten(str(path))}")
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None
        sys.modules[key] = module = importlib.util.module_from_spec(spec)
        try:
            _DIGESTS[key] = _compute_digest(path)
            spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(key, None)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise RegistryError(format_exception(error, str(path))) from error
    elif (digest := _compute_digest(path)) != _DIGESTS[key]:
        _log_change(str(path), digest)
    return sys.modules[key]


def _compute_digest(path: Path) -> str:
    """Return a digest of the file ``path``; empty if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


@cache
def _log_change(path: str, digest: str) -> None:
    """Log, once for each new ``digest``, that the file ``path`` has changed since it was loaded."""
    del digest
    log.warning("%s: changed since it was loaded; the loaded code is used until Python is restarted", path)
