"""SCAN-PhysFed without its language model (Yang et al. 2025, arXiv 2503.00908, published code).

A physics-informed hypernetwork H turns the protocol v (HyperFed's seven numbers) into a modulation
of the imaging network; its codes for different protocols are kept apart. In a round, site k trains
on

    L = L_rec + w |cos(H(v_k), H(v_j))|,      j another site, drawn for each step

and sends all but the decoder; the server takes the plain mean.

Shared: encoder and hypernetwork. Kept: the decoder, and, ours, the sinogram network and
back-projection (the paper starts from FBP). H(v) is the hypernetwork's hidden code, as in the code.
Ours: the hypernetwork is the backbone's prompt in form and modulates every layer, where the
published one modulates the bottleneck. Sites must know each other's protocols (not their images).
Left out: the anatomy prompts of the language model, and the quantisation for unseen protocols.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from fedm2ct.federation.method import State
from fedm2ct.federation.methods.fedavg import MeanServer
from fedm2ct.federation.methods.fedper import private_projection
from fedm2ct.federation.methods.setup import Halves, Setup, federate
from fedm2ct.federation.methods.site_client import LossOfRound, SiteClient
from fedm2ct.learning.mutual import supervised_loss
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.trainer import SiteTrainer
from fedm2ct.model.image import PromptedNetwork
from fedm2ct.model.prompt import hyperfed_condition
from fedm2ct.model.ts_iradonmap import Reconstruction


class ApartClient(SiteClient):
    """Keeps the code of its protocol apart from those of the others' protocols.

    Parameters
    ----------
    trainer, loss_of_round
        See `SiteClient`.
    others
        The other sites' protocols as conditions, shape ``(sites, 7)``.
    weight
        Weight of the term.
    """

    def __init__(
        self, trainer: SiteTrainer, loss_of_round: LossOfRound, others: Tensor, weight: float
    ) -> None:
        super().__init__(trainer, loss_of_round, validate_download=True, validate_training=True)
        self.others, self.weight = others.to(trainer.device), weight

    def train(self, round_index: int, received: State) -> float:
        """See `SiteClient.train`."""
        loss, model = self.loss_of_round(round_index), self.trainer.model
        if len(self.others) == 0:
            return self.trainer.train_round(round_index, loss)
        assert model.shared is not None and isinstance(model.shared.body, PromptedNetwork)
        prompt = model.shared.body.prompt
        draw = generator(self.trainer.seed, self.trainer.task.name, "other", round_index)

        def apart(result: Reconstruction, truth: Tensor) -> Tensor:
            other = self.others[int(torch.randint(len(self.others), (), generator=draw))]
            own_code, other_code = prompt.code(model.condition), prompt.code(other)
            alike = functional.cosine_similarity(own_code, other_code, dim=0).abs()
            return loss(result, truth) + self.weight * alike

        return self.trainer.train_round(round_index, apart)


def build(setup: Setup) -> Halves:
    """Build both halves."""
    spec = replace(private_projection(setup), prompted=True, condition="hyperfed", kept="decoder")
    loss, weight = supervised_loss(setup.distance), setup.config.method.scanphysfed.weight

    def client(trainer: SiteTrainer) -> ApartClient:
        others = [t.protocol for t in setup.tasks if t.name != trainer.task.name]
        conditions = [hyperfed_condition(protocol) for protocol in others]
        stacked = torch.stack(conditions) if conditions else torch.empty(0, 7)
        return ApartClient(trainer, lambda _: loss, stacked, weight)

    return federate(setup, spec, client, MeanServer)
