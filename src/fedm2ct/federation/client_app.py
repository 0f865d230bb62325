"""A site's half of a method as a Flower ClientApp."""

from collections.abc import Callable, Sequence

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.constant import ErrorCode

from fedm2ct.federation.records import (
    read_counted,
    read_download,
    receipt_of,
    reply_with_metrics,
    reply_with_upload,
)
from fedm2ct.federation.site import Site, SiteFailureError


def make_client_app(find_site: Callable[[Context], Site], mods: Sequence[Mod] = ()) -> ClientApp:
    """Return the app that a node runs.

    ``train`` is one round of the method, ``evaluate`` its end. A failure of the method leaves the
    site as the kind of the error only.

    Parameters
    ----------
    find_site
        Returns the site that this node is, from the node's own configuration.
    mods
        Flower's name for what messages pass on their way to the app and back.
    """
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        round_index, shared = read_download(message)
        try:
            upload = find_site(context).fit(round_index, shared, read_counted(message))
        except SiteFailureError as failure:
            return _error_reply(message, failure)
        return Message(reply_with_upload(upload, receipt_of(message)), reply_to=message)

    @app.evaluate()
    def finish(message: Message, context: Context) -> Message:
        round_index, shared = read_download(message)
        try:
            metrics = find_site(context).finish(round_index, shared)
        except SiteFailureError as failure:
            return _error_reply(message, failure)
        return Message(reply_with_metrics(metrics), reply_to=message)

    return app


def _error_reply(message: Message, failure: SiteFailureError) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(failure)), reply_to=message)
