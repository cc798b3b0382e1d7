"""Where the robots come from: the look-alikes' files, and the remedy for a file that is not there."""

import socket
import sys
import threading

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")
Usd = pytest.importorskip("pxr.Usd")

from spiky_rl.hosts.isaaclab import local_assets
from spiky_rl.hosts.isaaclab.assets import (
    explain_missing_asset,
    get_asset_server,
    get_newton_folder,
    probe_url,
)

FRANKA = "Isaac/IsaacLab/Robots/FrankaEmika/franka_panda.usda"
DERIVED = "/cache/isaaclab-assets-newton-1.6.1-layout-3"


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    root = tmp_path_factory.mktemp("derived")
    local_assets.build_assets(get_newton_folder(), root)
    names = ("GROUND", "CARTPOLE", "ANT", "HUMANOID")
    return {name: Usd.Stage.Open(str(root / getattr(local_assets, name))) for name in names}


def test_lookalikes_have_no_collision_group_that_keeps_them_off_the_ground(stages):
    for name, stage in stages.items():
        assert stage.GetDefaultPrim(), name
        assert not [prim for prim in stage.Traverse() if prim.GetTypeName() == "PhysicsCollisionGroup"]


@pytest.mark.parametrize(("name", "file"), [("ANT", "nv_ant.xml"), ("HUMANOID", "nv_humanoid.xml")])
def test_every_body_of_a_lookalike_has_the_density_of_nvidias_model(stages, name, file):
    spec, _ = local_assets.load_mjcf_model(get_newton_folder() / file)
    densities = {geom.name: geom.density for geom in spec.geoms}
    bodies = [
        prim for prim in stages[name].Traverse() if prim.GetAttribute("physics:density").HasAuthoredValue()
    ]
    assert len(bodies) >= 9
    for body in bodies:
        shapes = body.GetChild("collisions").GetChildren()
        assert {body.GetAttribute("physics:density").Get()} == {
            densities[shape.GetName()] for shape in shapes
        }


def test_ground_has_the_shader_that_isaac_lab_tints(stages):
    assert stages["GROUND"].GetPrimAtPath("/ground/Looks/theGrid/Shader").GetTypeName() == "Shader"


@pytest.mark.parametrize(
    ("root", "place", "says"),
    [
        (DERIVED, f"{DERIVED}/{FRANKA}", (f"{FRANKA} lies on the asset server", "--assets nucleus")),
        ("/my/pack", f"/my/pack/{FRANKA}", ("ISAACSIM_ASSET_ROOT=/my/pack", "correct it")),
        (DERIVED, "https://raw.githubusercontent.com/newton-physics/newton-assets/main/a/b.usda", ("a/b.usda lies in", "NEWTON_ASSET_DIR")),
        (DERIVED, "https://elsewhere.org/a.usd", ("https://elsewhere.org/a.usd is needed", "no source of --assets has it")),
        ("", f"{get_asset_server()}/{FRANKA}", ("is the asset server reachable?", "--assets local")),
    ],
)  # fmt: skip
def test_missing_file_is_answered_with_where_it_lies(monkeypatch, root, place, says):
    monkeypatch.setenv("ISAACSIM_ASSET_ROOT", root)
    monkeypatch.delitem(sys.modules, "isaaclab.utils.assets", raising=False)
    answer = explain_missing_asset(FileNotFoundError(f"Unable to find the file: {place}"))
    assert answer is not None and "\n" not in answer
    for part in says:
        assert part in answer
    assert ("--assets nucleus" in answer) == ("--assets nucleus" in says), "which cannot help elsewhere"


def test_a_server_of_something_else_is_not_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"not the web\r\n\r\n")

        threading.Thread(target=answer).start()
        assert "not the web" in probe_url(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_other_errors_are_not_taken_for_missing_assets():
    assert explain_missing_asset(ValueError("/a/b.usd")) is None
    assert explain_missing_asset(FileNotFoundError("there is no such file")) is None
