"""A live view's server answers this machine alone, and of its browsers' pages its own alone."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("isaaclab", reason="the isaaclab extra is not installed")

from spiky_rl.hosts.isaaclab.camera import GraphicsError
from spiky_rl.hosts.isaaclab.live import setup
from spiky_rl.hosts.isaaclab.live.origins import is_own_page, refuse_other_pages
from spiky_rl.hosts.isaaclab.live.rerun_server import RerunServer

ROOT = Path(__file__).resolve().parents[2]
OWN = [
    ("localhost:8080", None),
    ("localhost:8080", "http://localhost:8080"),
    ("LOCALHOST:8080", "http://localhost:8080"),
    ("127.0.0.1:18080", "http://127.0.0.1:18080"),
    ("[::1]:8080", "http://[::1]:8080"),
    ("localhost", "https://localhost"),
]
OTHERS = [
    ("localhost:8080", "http://evil.example"),
    ("localhost:8080", "http://localhost:9000"),
    ("localhost:8080", "http://localhost.evil.example:8080"),
    ("localhost:8080", "null"),
    ("localhost:8080", ""),
    ("localhost:8080", "file://"),
    ("localhost:8080", "http://["),
    ("evil.example:8080", "http://evil.example:8080"),
    ("evil.example:8080", None),
    ("", None),
    ("[", None),
]


@pytest.mark.parametrize(("host", "origin"), OWN + OTHERS)
def test_a_request_is_the_own_pages_where_host_and_origin_are_one_and_this_machine(host, origin):
    assert is_own_page([host], [] if origin is None else [origin]) == ((host, origin) in OWN)
    assert not is_own_page([host, host], [])
    assert not is_own_page([host], [origin or "", "http://localhost:8080"])


@pytest.fixture(name="viser_port", scope="module")
def a_viser_server():
    viser = pytest.importorskip("viser", reason="viser is not installed: the extra 'live'")
    with refuse_other_pages():
        server = viser.ViserServer(host=setup.LOCAL_ADDRESS, port=setup.find_free_port(18080), verbose=False)
    yield server.get_port()
    server.stop()


@pytest.mark.parametrize(("host", "origin"), [*OWN[1:3], *OTHERS[:5], *OTHERS[7:9]])
def test_visers_websocket_and_its_page_are_there_for_their_own_page_only(host, origin, viser_port):
    viser = importlib.import_module("viser")
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    own = (host, origin) in OWN
    host, origin = (text and text.replace("8080", str(viser_port)) for text in (host, origin))
    headers = {} if origin is None else {"Origin": origin}

    def open_websocket():
        # a name that leads to the server without being one of this machine's, as a page can change its own behind a browser's back
        with socket.create_connection((setup.LOCAL_ADDRESS, viser_port)) as link:
            protocols = [f"viser-v{viser.__version__}"]
            with connect(
                f"ws://{host}", subprotocols=protocols, additional_headers=headers, sock=link
            ) as websocket:
                return websocket.recv(timeout=30)

    def open_page() -> int:
        with urlopen(Request(f"http://127.0.0.1:{viser_port}", headers={"Host": host, **headers})) as page:
            return page.status

    if own:
        assert open_websocket() and open_page() == 200
        return
    with pytest.raises(InvalidStatus) as refused:
        open_websocket()
    assert refused.value.response.status_code == 403
    with pytest.raises(HTTPError) as error:
        open_page()
    assert error.value.code == 403
    error.value.close()


def test_a_viser_that_listens_in_another_way_is_not_left_open():
    pytest.importorskip(
        "websockets", reason="websockets, which viser needs, is not installed: the extra 'live'"
    )
    with pytest.raises(GraphicsError, match="viser"), refuse_other_pages():
        pass


def listeners(*ports: int) -> set[str]:
    """Addresses on which somebody listens at one of the ``ports``, as the kernel writes them."""
    rows = [
        line.split()
        for file in ("tcp", "tcp6")
        for line in Path("/proc/net", file).read_text().splitlines()[1:]
    ]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, port in listening if int(port, 16) in ports}


def ports() -> tuple[int, int]:
    first = setup.find_free_port(19876)
    return first, setup.find_free_port(first + 1)


def test_reruns_server_listens_on_this_machine_alone_and_ends():
    rerun = pytest.importorskip("rerun", reason="rerun is not installed: the extra 'live'")
    data, page = ports()
    with closing(RerunServer(setup.LOCAL_ADDRESS, data, page)) as server:
        assert listeners(data, page) == {"0100007F"}
        with urlopen(f"http://{setup.LOCAL_ADDRESS}:{page}") as opened:
            assert opened.status == 200
        stream = rerun.RecordingStream("test")
        stream.connect_grpc(f"rerun+http://{setup.LOCAL_ADDRESS}:{data}/proxy")
        stream.log("a", rerun.TextLog("b"))
        stream.flush()
        stream.disconnect()
    assert server.process.poll() is not None and not listeners(data, page)


def test_reruns_server_ends_with_a_killed_training():
    pytest.importorskip("rerun", reason="rerun is not installed: the extra 'live'")
    data, page = ports()
    code = (
        "import sys, time; from spiky_rl.hosts.isaaclab.live.rerun_server import RerunServer\n"
        f"server = RerunServer('127.0.0.1', {data}, {page}); print('there', flush=True); time.sleep(120)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout.readline() == "there\n"
        assert listeners(data, page)
        os.kill(training.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while listeners(data, page):
        assert time.monotonic() < deadline
        time.sleep(0.1)
