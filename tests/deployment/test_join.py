"""`site join` against a small TLS server: whose certificate it is, and what time it has."""

import contextlib
import http.server
import re
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fedm2ct.deployment import certificates
from fedm2ct.deployment.folders import CoordinatorFolder, SiteFolder

from ..runs import cli
from .loopback import free_ports


@contextlib.contextmanager
def answering(port, folder, ahead_s):
    """Answer on a port with a coordinator's certificate and a clock that is ahead of this one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(403)
            self.end_headers()

        def date_time_string(self, timestamp=None):
            if ahead_s is None:
                return "no time"
            return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.certificate, folder.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def join(tmp_path, capsys):
    """Join a coordinator whose clock is ahead; return the exit code and what was said last."""
    (port,) = free_ports(1)
    coordinator = CoordinatorFolder(tmp_path / "coordinator")
    where = ["--host", "127.0.0.1", "--port", port]
    assert cli("coordinator", "init", coordinator.root, *where) == 0
    site = SiteFolder(tmp_path / "site")
    assert cli("site", "init", site.root, "--name", "A") == 0

    def joined(ahead_s=0):
        with answering(port, coordinator, ahead_s):
            code = cli("site", "join", site.root, coordinator.invitation)
        output = capsys.readouterr()
        return code, (output.err or output.out).splitlines()[-1]

    joined.coordinator = coordinator
    return joined


@pytest.mark.parametrize("ahead_s", [0, -3, 3, 280, None])
def test_a_clock_that_is_right_enough(join, ahead_s):
    assert join(ahead_s) == (0, "The coordinator answers.")


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [
        (-10800, r"clock is 1080\d s ahead of"),
        (-15, r"clock is 1\d s ahead of"),
        (600, r"clock is (600|59\d) s behind"),
    ],
)
def test_a_clock_that_is_wrong_is_named_with_its_remedy(join, ahead_s, said):
    code, text = join(ahead_s)
    assert code == 1
    assert re.search(said, text), text
    assert "timedatectl set-ntp true" in text


@pytest.mark.parametrize("days", [2, -900])
def test_a_certificate_that_is_out_of_date_may_be_the_clock(join, monkeypatch, days):
    class Shifted(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=days)

    with monkeypatch.context() as patch:
        patch.setattr(certificates, "datetime", Shifted)
        assert cli("coordinator", "renew", join.coordinator.root) == 0
    code, text = join()
    assert code == 1
    assert "not valid at this machine's time" in text and "timedatectl set-ntp true" in text


def test_another_authority_is_not_a_matter_of_the_clock(join):
    folder = join.coordinator
    certificates.make_authority(folder.authority_key, folder.keys / "other.pem")
    other = (folder.keys / "other.pem").read_text()
    ours = folder.authority.read_text()
    folder.invitation.write_text(folder.invitation.read_text().replace(ours, other))
    code, text = join()
    assert code == 1
    assert "not vouched for" in text and "do not connect" in text
