"""The site's worker process: ``python -m fedm2ct.deployment.worker SITE_FOLDER``.

Started by ``fedm2ct site up``. It imports everything and reads the site's scans once, then answers
one message after the other.
"""

import contextlib
import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from fedm2ct.deployment.folders import SiteFolder
from fedm2ct.deployment.processes import stopped_by_signals


def work(root: Path) -> None:
    """Answer the site's messages until this process is told to stop."""
    import torch

    from fedm2ct.deployment.site_host import SiteHost
    from fedm2ct.federation.client_app import make_client_app
    from fedm2ct.federation.packing import packing
    from fedm2ct.federation.task_worker import TaskWorker
    from fedm2ct.pipeline.notices import warnings_to

    folder = SiteFolder(root)
    settings = folder.settings()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    worker = TaskWorker(
        f"127.0.0.1:{settings.supernode_port}",
        folder.secret.read_bytes(),
        make_client_app(SiteHost(folder).find, [packing]),
        lambda error: note_failure(folder, error),
        message_timeout_s=settings.message_timeout_s,
    )
    with stopped_by_signals() as stop, warnings_to(_say):
        worker.run(stop)


def note_failure(folder: SiteFolder, error: Exception) -> None:
    """Write an exception to the site's own logs: its text may tell of patients.

    A disk that is too full for that must not end the worker.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    _say(f"{when} {type(error).__name__}: {error}")
    text = f"--- {when}\n{''.join(traceback.format_exception(error))}"
    path = folder.logs / "errors.log"
    with (
        contextlib.suppress(OSError),
        open(path, "a", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as stream,
    ):
        stream.write(text)


def _say(text: str) -> None:
    """Write a line to ``worker.log``, if there is room for it."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
