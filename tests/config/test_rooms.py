"""A file of a room is an entry, and the entry is the one class of it that is what the room holds: no list says so."""

import importlib
import sys

import pytest

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError

TEXT = '''
"""Triangle of one's own: max(0, 1 - k|x|)."""
from spiky_rl.surrogates import triangle
from spiky_rl.surrogates.base import Surrogate
from spiky_rl.surrogates.gaussian import Gaussian

class Window:
    """Comes first, and is no surrogate."""


class _Half(Surrogate):
    """Says no options of its own."""


class Mine(_Half):
    def derivative(self, ops, x, slope):
        return ops.max(1.0 - slope * ops.abs(x), 0.0)

    def primitive(self, ops, x, slope):
        return x


Same = Mine
'''


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder more of the room of surrogates; a function that writes a file of it."""
    package = importlib.import_module("spiky_rl.surrogates")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield lambda name, text: (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    for name in set(sys.modules) - before:
        del sys.modules[name]
    registry._resolve_entry.cache_clear()


def test_an_entry_is_the_one_class_of_its_file_whatever_it_imports_or_defines_beside_it(room):
    room("mine", TEXT)
    assert "mine" in registry.list_names("surrogates")
    assert registry.resolve("surrogates", "mine").__name__ == "Mine"
    assert registry.read_summary("surrogates", "mine") == "Triangle of one's own: max(0, 1 - k|x|)."
    assert registry.configure("surrogates", "mine", "s").build().slope == 1.0


@pytest.mark.parametrize(
    ("more", "there"),
    [
        ("class Other(Mine):\n    pass\n", "Mine and Other"),
        ("del Mine\ndel Same\n", "none"),
    ],
)
def test_two_entries_in_a_file_are_refused_with_both_and_so_is_none(room, more, there):
    room("several", TEXT + "\n\n" + more)
    message = rf"several\.py defines {there}; it must define one public class"
    with pytest.raises(RegistryError, match=message):
        registry.resolve("surrogates", "several")
    with pytest.raises(RegistryError, match=rf"^agent\.surrogate\.name: .*several\.py defines {there}"):
        registry.configure("surrogates", "several", "agent.surrogate")


def test_a_name_is_a_helpers_only_where_it_begins_with_an_underscore(room):
    for name in ("_helper", "layer", "readout", "timed"):
        room(name, TEXT)
    assert {"layer", "readout", "timed"} <= set(registry.list_names("surrogates"))
    assert not {"_helper", "base", "__init__"} & set(registry.list_names("surrogates"))
    assert registry.resolve("surrogates", "readout").__name__ == "Mine"
    with pytest.raises(RegistryError, match="unknown surrogate '_helper'"):
        registry.resolve("surrogates", "_helper")


def test_every_file_of_every_room_without_an_underscore_is_an_entry():
    for kind in registry.COMPONENT_KINDS:
        for name in registry.list_names(kind):
            cls = registry.resolve(kind, name)
            assert cls.__module__.rpartition(".")[2] == name
