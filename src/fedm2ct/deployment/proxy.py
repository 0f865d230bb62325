"""The reverse proxy in front of Flower's server: what may pass, and nothing else.

Flower's server answers everything on one port: the sites' calls, which carry a signature of the
site's key, and calls that list and register nodes, submit runs and fetch tasks, which anybody could
make. It is therefore bound to the loopback interface, and only the paths listed here, which flwr
1.41 demands a registered key for, are passed on from outside.
"""

import getpass
import os

from fedm2ct.deployment.folders import CoordinatorFolder
from fedm2ct.deployment.settings import CoordinatorSettings

FLEET_CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""Calls of a registered site; ``register-node`` and ``unregister-node`` are not among them."""

LARGEST_CALL = "24m"
"""Messages travel in pieces of 16 MiB, one a call (`fedm2ct.federation.packing`)."""

_CONFIG = """\
# Written by `fedm2ct coordinator init`. Started by `fedm2ct coordinator up`.
daemon off;
{user}worker_processes 1;
pid {state}/nginx.pid;
error_log {logs}/nginx-error.log warn;

events {{ worker_connections 512; }}

http {{
    access_log {logs}/nginx-access.log;
    server_tokens off;
    client_body_temp_path {state}/nginx-body;
    proxy_temp_path {state}/nginx-proxy;
    fastcgi_temp_path {state}/nginx-unused;
    uwsgi_temp_path {state}/nginx-unused;
    scgi_temp_path {state}/nginx-unused;

    limit_conn_zone $binary_remote_addr zone=callers:1m;

    upstream superlink {{
        server 127.0.0.1:{superlink_port};
        keepalive 16;
        keepalive_timeout 4s;  # Flower's server closes after 5 s
    }}

    server {{
        listen {listen}:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:1m;

        limit_conn callers 64;
        client_max_body_size {largest};
        client_header_timeout 20s;
        client_body_timeout 60s;

        location ~ ^/v1/fleet/({calls})$ {{
            limit_except POST {{ deny all; }}
            proxy_pass https://superlink;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_ssl_trusted_certificate {authority};
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_verify on;
            proxy_read_timeout 120s;
            # straight through: no update is ever in a temporary file
            proxy_request_buffering off;
            proxy_buffering off;
        }}

        location / {{ return 403; }}
    }}
}}
"""


def proxy_config(folder: CoordinatorFolder, settings: CoordinatorSettings) -> str:
    """Return nginx's configuration.

    Parameters
    ----------
    folder
        The coordinator's folder; its absolute path is written out.
    settings
        Its settings.
    """
    root = folder.root.resolve()
    here = CoordinatorFolder(root)
    listen = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
    # Started by root, nginx would become another user, who may not read its files.
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    return _CONFIG.format(
        user=user,
        state=here.state,
        logs=here.logs,
        superlink_port=settings.superlink_port,
        listen=listen,
        port=settings.port,
        certificate=here.certificate,
        key=here.key,
        authority=here.authority,
        largest=LARGEST_CALL,
        calls="|".join(FLEET_CALLS),
    )
