"""What a site without normal-dose images does with its slices: train, and choose, without truth."""

import math

import torch
from torch import Tensor

from fedm2ct.data.simulate import PairedData
from fedm2ct.learning.losses import validation_psnr
from fedm2ct.learning.misfit import Misfit, counts_of, hold_out_views
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.self_supervised import Measured, Term
from fedm2ct.learning.slices import Slices
from fedm2ct.learning.trainer import SiteTrainer, best_weight
from fedm2ct.model.ts_iradonmap import Reconstruction

FOLD = 8
"""Every eighth view of a validation slice is held out and predicted."""


class UnpairedTrainer(SiteTrainer):
    """Trains with terms that need no truth, and keeps the model that predicts best.

    A model's score is its PSNR on public validation slices, where there are any: their truth is
    public. Elsewhere it is how well its image, made of seven in eight views, predicts the others on
    the site's own validation slices: the misfit, in dB and negative, so that more is better.

    Attributes
    ----------
    weighs
        Whether validation also sets the weight between private and shared network, by the same
        slices. A site whose private network is not trained must not.
    """

    weighs = False

    def validation_slices(self) -> Slices:
        """Return the site's own validation slices; the public ones are apart."""
        self.misfit = Misfit(self.task.protocol)
        self.public_data: Slices | None = None
        self.public_train: Slices | None = None
        if self.task.public_train is not None:
            self.public_train = Slices(self.task.public_train, self.model, self.device)
        if self.task.public_validation:
            pairs = PairedData.joined(self.task.public_validation)
            self.public_data = Slices(pairs, self.model, self.device)
        # Their views are held out before a model sees them: what it starts from is another image.
        return Slices(self.task.validation, self.model, self.device, prepared=False)

    def learn(self, round_index: int, loss: Term) -> float:
        """Take the round's local steps on a loss without truth; return its mean."""
        order = self.batches(round_index)
        draw = generator(self.seed, self.task.name, "self-supervision", round_index)
        steps = self.training.local_steps
        losses = []
        for position in range((round_index - 1) * steps, round_index * steps):
            chosen = self.begin_step(position, order)
            batch = Measured(*self.train_data.measured(chosen))
            losses.append(self.end_step(loss(self.model, batch, draw)))
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Weigh private against shared, score, keep the best model; no truth of the site's own."""
        self.model.eval()
        held = slice(FOLD // 2, None, FOLD)
        sinogram, _ = self.validation_data.measured(torch.arange(len(self.validation_data)))
        own: Reconstruction = self.model(hold_out_views(sinogram, FOLD // 2, FOLD))
        counts = counts_of(sinogram, self.task.protocol.photons)
        public, truth = None, None
        if self.public_data is not None:
            everything = torch.arange(len(self.public_data))
            known, truth, analytical = self.public_data.batch(everything)
            public = self.model(known, analytical)
        scores = {}
        if self.weighs and own.private is not None and own.shared is not None:
            if public is None or truth is None:
                weight = self._weight_by_prediction(own, counts[:, :, held], held)
            else:
                weight = best_weight(public.private, public.shared, truth)
            self.model.private_weight.fill_(weight)
            scores["private_weight"] = weight
        misfit = float(self.misfit(own.final, counts, held).mean())
        scores["held_out_misfit"] = misfit
        reached = -10 * math.log10(misfit)
        if public is not None and truth is not None:
            reached = validation_psnr(public.final, truth)
            scores["val_public_psnr_db"] = reached
        self.keep_if_best(reached)
        return scores

    def _weight_by_prediction(self, result: Reconstruction, counts: Tensor, held: slice) -> float:
        """Return the weight whose image predicts the views held out best, by least squares."""
        assert result.private is not None and result.shared is not None
        private, shared = (
            self.misfit.project(image)[:, :, held] for image in (result.private, result.shared)
        )
        middle = (private + shared) / 2
        pull, weight = self.misfit.pulls(middle, counts)
        scale = weight.sqrt()
        difference, wanted = (private - shared) * scale, (middle + pull - shared) * scale
        towards = self.misfit.filtered(difference)
        energy = float((difference * towards).sum())
        if energy <= 0.0:
            return 0.5
        return min(1.0, max(0.0, float((wanted * towards).sum()) / energy))
