"""A grid that loses, keeps back or changes messages, as networks and attackers do."""

from fedm2ct.federation import grid


def shape_grid(monkeypatch, *, delivers=None, returns=None):
    """Let the engine use such a grid.

    ``delivers(site, round)`` says whether a training message reaches its site, and
    ``returns(site, round, reply)`` which replies reach the server instead of one.
    """

    class ShapedGrid(grid.LocalGrid):
        def push_messages(self, messages):
            return super().push_messages(m for m in messages if self._delivers(m))

        def _delivers(self, message):
            about = message.metadata
            if about.message_type != "train" or delivers is None:
                return True
            return delivers(self.sites[about.dst_node_id], int(about.group_id))

        def pull_messages(self, message_ids):
            replies = []
            for reply in super().pull_messages(message_ids):
                about = reply.metadata
                if about.message_type != "train" or returns is None:
                    replies.append(reply)
                else:
                    site = self.sites[about.src_node_id]
                    replies.extend(returns(site, int(about.group_id), reply))
            return replies

    monkeypatch.setattr(grid, "LocalGrid", ShapedGrid)
