"""The site's worker process: ``python -m fedm2ct.deployment.worker SITE_FOLDER``.

Started by ``fedm2ct site up``. It imports everything and reads the site's scans once, then answers
one message after the other.
"""

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
    with stopped_by_signals() as stop, warnings_to(lambda text: print(text, flush=True)):
        worker.run(stop)


def note_failure(folder: SiteFolder, error: Exception) -> None:
    """Write an exception to the site's own log: its text may tell of patients."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"--- {when}\n{''.join(traceback.format_exception(error))}"
    path = folder.logs / "errors.log"
    with open(path, "a", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as stream:
        stream.write(text)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
