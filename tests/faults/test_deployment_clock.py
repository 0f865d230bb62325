"""A site's clock is wrong: what a deployment bears, and what becomes of it.

Run by ``make faults``. Whole processes get another clock from a few lines of C: that needs ``cc``.
"""

import datetime
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from fedm2ct.deployment.registry import registered_nodes

from ..deployment.loopback import join_when_it_answers, made, up, wait_until
from ..runs import start
from .deployed import running, set_in, started_again

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::fedm2ct.model.prompt.PromptRangeWarning"),
]
HOUR = 3600


@pytest.fixture(scope="module")
def with_clock(tmp_path_factory):
    """Return a function that gives the variables of a process whose clock is seconds ahead."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("gives processes another clock by a few lines of C; there is no cc here")
    library = tmp_path_factory.mktemp("clock") / "another_clock.so"
    source = Path(__file__).with_name("another_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return lambda ahead_s: {"LD_PRELOAD": str(library), "CLOCK_AHEAD_S": str(ahead_s)}


def heartbeat(federation, name, ahead_s):
    """Send a node's heartbeat, signed by a clock that is ahead; return the answer's status."""
    folder = federation.site(name)
    key = load_ssh_private_key(folder.private_key.read_bytes(), None)
    timestamp = (
        datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead_s)
    ).isoformat()
    signature = sign_message(key, timestamp.encode())
    node = registered_nodes(federation.coordinator)[name]
    request = urllib.request.Request(
        f"https://127.0.0.1:{federation.coordinator.settings().port}/v1/fleet/send-node-heartbeat",
        SendNodeHeartbeatRequest(node={"node_id": node}, heartbeat_interval=30).SerializeToString(),
        {
            "content-type": PROTOBUF_MEDIA_TYPE,
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
            TIMESTAMP_HEADER: timestamp,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode(),
        },
    )
    trusted = ssl.create_default_context(cafile=str(federation.coordinator.authority))
    try:
        with urllib.request.urlopen(request, timeout=20, context=trusted) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_how_wrong_a_clock_may_be(patients, tmp_path):
    """Five minutes behind the coordinator's, but five seconds ahead of it."""
    federation = made(tmp_path, patients)
    with up(federation, sites=()):
        wait_until(lambda: heartbeat(federation, "A", 0) == 200, 30, "no call is accepted")
        borne = {ahead: heartbeat(federation, "A", ahead) for ahead in (-290, -60, 0, 4)}
        refused = {ahead: heartbeat(federation, "A", ahead) for ahead in (-HOUR, -320, 10, HOUR)}
        print(borne, refused)
    assert set(borne.values()) == {200}
    assert set(refused.values()) == {401}


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(3 * HOUR, "s ahead of"), (-3 * HOUR, "not valid at this machine's time")]
)
def test_a_site_whose_clock_is_hours_off_is_left_out_until_it_is_set(
    patients, tmp_path, with_clock, ahead_s, said
):
    federation = made(tmp_path, patients)
    set_in(federation.coordinator.settings_file, wait_for_sites_s=3.0)
    site = federation.site("A")
    log = site.root / "up.log"
    with (
        up(federation, sites=("B",)) as processes,
        running(federation, processes, tmp_path / "run", rounds=60) as run,
    ):
        join_when_it_answers(federation, site)
        assert said in output_of_joining(federation, site, with_clock(ahead_s))
        with started_again("site", site, **with_clock(ahead_s)):
            run.wait_for_round(2)
            wait_until(lambda: "supernode has ended" in log.read_text(), 60, "not refused")
            assert set(run.failures().values()) == {"not connected"}
            assert not run.rounds_of("A")
        with started_again("site", site, **with_clock(-240)):
            run.wait_for_round(run.wait_for_return("A", after=1) + 1, "A")


def output_of_joining(federation, site, clock):
    """Return what ``fedm2ct site join`` says in the end, under another clock."""
    joining = start("site", "join", site.root, federation.coordinator.invitation, variables=clock)
    said = joining.communicate(timeout=60)[1]
    assert joining.returncode == 1
    return said.splitlines()[-1]
