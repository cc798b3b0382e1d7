"""One pinned wheel is fetched and unpacked once; without it, or with another, one line says what to do."""

import hashlib
import sys
import zipfile

import pytest

pytest.importorskip("newton", reason="the isaaclab extra is not installed")

from spiky_rl.hosts.isaaclab import wheel_assets
from spiky_rl.hosts.isaaclab.local_assets import AssetError
from spiky_rl.hosts.isaaclab.wheel_assets import Wheel, get_wheel_folder

FILE, TEXT = "robotzoo/arm.xml", "<mujoco/>"
VARIABLE = "ROBOTZOO_WHEEL"
INFO = "robotzoo-1.0.dist-info"
PARTS = {
    FILE: TEXT,
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: robotzoo\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/RECORD": "",
}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A wheel and the file that is it; the cache is empty, and the package index is a folder of the test's."""
    file = tmp_path / "built" / "robotzoo-1.0-py3-none-any.whl"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in PARTS.items():
            archive.writestr(name, text)
    for name, value in (("SPIKY_RL_CACHE", "cache"), ("PIP_FIND_LINKS", "index"), ("UV_FIND_LINKS", "index")):
        (tmp_path / value).mkdir(exist_ok=True)
        monkeypatch.setenv(name, str(tmp_path / value))
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv(VARIABLE, raising=False)
    return Wheel("robotzoo", "1.0", hashlib.sha256(file.read_bytes()).hexdigest(), VARIABLE), file


def published(tmp_path, file):
    (tmp_path / "index" / file.name).write_bytes(file.read_bytes())


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "robots").iterdir())


def refused(wheel, tmp_path):
    with pytest.raises(AssetError) as error:
        get_wheel_folder(wheel)
    assert "\n" not in str(error.value) and left(tmp_path) == [], "nothing half is kept"
    return str(error.value)


def test_wheel_comes_from_the_index_once_and_nothing_of_it_is_installed(zoo, tmp_path):
    wheel, file = zoo
    published(tmp_path, file)
    folder = get_wheel_folder(wheel)
    assert (folder / FILE).read_text() == TEXT and left(tmp_path) == ["robotzoo-1.0"]
    assert not any("robotzoo" in path for path in sys.path) and "robotzoo" not in sys.modules
    (tmp_path / "index" / file.name).unlink()
    assert get_wheel_folder(wheel) == folder, "from the cache"


def test_wheel_comes_from_the_user_s_file_without_an_index(zoo, tmp_path, monkeypatch):
    wheel, file = zoo
    monkeypatch.setenv(VARIABLE, str(file))
    assert (get_wheel_folder(wheel) / FILE).read_text() == TEXT


def test_index_that_does_not_have_the_wheel_is_said_with_the_remedy(zoo, tmp_path):
    said = refused(zoo[0], tmp_path)
    for word in (
        "robotzoo==1.0 cannot be fetched",
        "pip download --no-deps robotzoo==1.0",
        f"set {VARIABLE}",
    ):
        assert word in said


def test_index_with_another_wheel_of_that_name_is_refused(zoo, tmp_path):
    wheel, file = zoo
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("robotzoo/more.xml", TEXT)
    published(tmp_path, file)
    assert "cannot be fetched" in (said := refused(wheel, tmp_path)) and "hash" in said.lower()


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "folder"])
def test_user_s_file_that_is_not_the_wheel_is_refused(zoo, tmp_path, monkeypatch, damage):
    wheel, file = zoo
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    if damage == "folder":
        file.mkdir()
    monkeypatch.setenv(VARIABLE, str(file))
    said = refused(wheel, tmp_path)
    assert said.startswith(f"{VARIABLE}={file}: ")
    assert (
        ("damaged" in said and wheel.sha256 in said)
        if damage in ("cut", "changed")
        else "cannot be read" in said
    )


def test_neither_pip_nor_uv_is_said(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(wheel_assets.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "neither pip nor uv" in refused(zoo[0], tmp_path)


def test_cache_that_cannot_be_written_is_said(zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(zoo[1]))  # a file where a folder is needed
    with pytest.raises(AssetError, match="SPIKY_RL_CACHE"):
        get_wheel_folder(zoo[0])
