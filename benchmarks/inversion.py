"""Whether a slice can be had back from an upload, in benchmarks/results/inversion.json.

    python benchmarks/inversion.py [--seeds 0] [--size 32] [--iterations 600]

A site with a small image network sends one update; the attack of `inversion_attack.py` looks for
the slice. From the attacker's dream (one plain gradient step on a single slice) to what a site of a
real run sends (many steps of Adam on batches of its slices), without and with the defences of
docs/privacy.md. The score is the SSIM and the PSNR of the recovered image and the site's own (its
FBP and the truth), in HU; of many slices, the one that it resembles most. ``guess`` is what an
attacker without any update has: the mean image of another patient's slices.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from inversion_attack import Effort, recover
from torch import Tensor, nn

from fedm2ct.data.sites import load_scan, select
from fedm2ct.evaluation.metrics import psnr, ssim
from fedm2ct.federation.compression import decode, encode
from fedm2ct.federation.update_noise import clip_and_noise, update_length
from fedm2ct.files import write_atomically
from fedm2ct.learning.losses import charbonnier
from fedm2ct.learning.seeds import generator, seeded_initialisation
from fedm2ct.learning.slice_privacy import SlicePrivacy
from fedm2ct.model.image import build_image_network
from fedm2ct.physics.analytic import fbp
from fedm2ct.physics.protocols import get_protocol
from fedm2ct.pipeline.assess import to_hu
from fedm2ct.pipeline.prepare import acquire
from fedm2ct.pipeline.provenance import provenance

RESULT = Path(__file__).parent / "results" / "inversion.json"
PROTOCOL, SITE_SCAN, OTHER_SCAN = "demo-low-mas", "lung1", "torso"
SLICES, BATCH, STEPS, RATE, WIDTH, WARM_STEPS = 24, 4, 40, 1e-3, 8, 60
State = dict[str, Tensor]
Defence = Callable[[State], State]


class Slices:
    """A patient's FBP images and truth under the protocol, ``(n, 1, row, column)``."""

    def __init__(self, scan_name: str, size: int) -> None:
        protocol = get_protocol(PROTOCOL).scaled(size)
        scan = load_scan(scan_name)
        chosen = select(scan, SLICES, source=scan_name, held_out_fraction=0.0)
        data = acquire([(scan, chosen.slices)], protocol, generator(0, scan_name, "noise"))
        self.image = fbp(data.projections, protocol.geometry, protocol.grid)
        self.truth = data.truth


def warm_network(other: Slices, seed: int) -> nn.Module:
    """Return the network as it would be sent in a later round: trained on another patient.

    In the first round its last layer is zero, so that nearly all of the gradient is, too.
    """
    with seeded_initialisation(seed, "network"):
        network = build_image_network("unet", 1, WIDTH)
    _train(network, other, WARM_STEPS, BATCH, generator(seed, "warm"), None)
    return network


def _train(
    network: nn.Module,
    slices: Slices,
    steps: int,
    batch: int,
    draw: torch.Generator,
    privacy: SlicePrivacy | None,
) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    parameters = list(network.parameters())

    def loss_of(chosen: Tensor) -> Tensor:
        return charbonnier(network(slices.image[chosen]), slices.truth[chosen])

    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        if privacy is None:
            loss_of(torch.randint(len(slices.image), (batch,), generator=draw)).backward()
        else:
            taken = privacy.choose(len(slices.image), batch)
            losses = [lambda i=i: loss_of(torch.tensor([i])) for i in taken]
            privacy.backward(parameters, losses, float(batch))
        optimiser.step()


def one_step(network: nn.Module, slices: Slices, index: int, adam: bool) -> State:
    """Return the update of a single step on a single slice."""
    value = charbonnier(network(slices.image[index : index + 1]), slices.truth[index : index + 1])
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(value, parameters)
    if adam:  # the first step: both moments are the gradient's own
        return {n: -RATE * g / (g.abs() + 1e-8) for n, g in zip(names, gradients, strict=True)}
    return {n: -RATE * g for n, g in zip(names, gradients, strict=True)}


def many_steps(
    network: nn.Module, slices: Slices, seed: int, privacy: SlicePrivacy | None = None
) -> State:
    """Return the update of a round as sites really train: Adam, batches, all slices."""
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    _train(network, slices, STEPS, BATCH, generator(seed, "round"), privacy)
    update = {n: p.detach() - before[n] for n, p in network.named_parameters()}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(before[name])
    return update


def similarity(image: Tensor, slices: Slices, indices: list[int]) -> dict[str, float]:
    """Return the largest SSIM and PSNR to the FBP or the truth of any of the slices."""
    ours = to_hu(image)[0]
    scores = []
    for index in indices:
        for kind in (slices.image, slices.truth):
            theirs = to_hu(kind[index : index + 1])[0]
            scores.append((float(ssim(ours, theirs)[0]), float(psnr(ours, theirs)[0])))
    return {"ssim": max(s for s, _ in scores), "psnr_db": max(p for _, p in scores)}


def noised(noise: float, seed: int) -> Defence:
    """Return clipping to the update's own length, and noise in its units."""
    return lambda update: clip_and_noise(
        update, update_length(update), noise, generator(seed, "defence")
    )


def eight_bits(update: State) -> State:
    """Return an update as it arrives in 8 bits."""
    return decode(encode(update, "int8"), update, "int8")


def cases(
    network: nn.Module, site: Slices, seed: int
) -> dict[str, tuple[State, Effort, list[int]]]:
    """Return every update that is attacked, how, and which slices are in it."""
    index, every = SLICES // 2, list(range(SLICES))
    gradient, adam = Effort(), Effort(signs=True)
    plain, signs = one_step(network, site, index, False), one_step(network, site, index, True)
    privacy = SlicePrivacy(1.0, 1.0, generator(seed, "round"))
    found = {
        "one gradient step, one slice": (plain, gradient, [index]),
        "the same, in 8 bits": (eight_bits(plain), gradient, [index]),
    }
    for z in (0.001, 0.01):
        found[f"the same, update noise {z:g}"] = (noised(z, seed)(plain), gradient, [index])
    found["one step of Adam, one slice"] = (signs, adam, [index])
    found["the same step of Adam, update noise 0.01"] = (noised(0.01, seed)(signs), adam, [index])
    found[f"a round: {STEPS} steps of Adam, batches of {BATCH}"] = (
        many_steps(network, site, seed), adam, every,
    )  # fmt: skip
    found["the same round, slice noise 1"] = (
        many_steps(network, site, seed, privacy), adam, every,
    )  # fmt: skip
    return found


def measure(size: int, seed: int, iterations: int) -> dict[str, dict[str, float]]:
    """Attack every case; tell of each on the console."""
    site, other = Slices(SITE_SCAN, size), Slices(OTHER_SCAN, size)
    network = warm_network(other, seed)
    every = list(range(SLICES))
    mean = other.truth.mean(0, keepdim=True)
    result = {"guess": {**similarity(mean, site, [SLICES // 2]), "cosine": 0.0}}
    result["guess of any slice"] = {**similarity(mean, site, every), "cosine": 0.0}
    for name, (update, effort, indices) in cases(network, site, seed).items():
        tried = replace(effort, iterations=iterations)
        image, cosine = recover(network, charbonnier, update, (1, 1, size, size), tried, seed)
        result[name] = {**similarity(image, site, indices), "cosine": cosine}
        print(f"seed {seed}, {name}: {result[name]}", flush=True)
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = {
        str(seed): measure(arguments.size, seed, arguments.iterations) for seed in arguments.seeds
    }
    record = {
        **provenance(),
        "network": f"unet, width {WIDTH}, after {WARM_STEPS} steps on {OTHER_SCAN}",
        "site": {"scan": SITE_SCAN, "protocol": PROTOCOL, "slices": SLICES, "size": arguments.size},
        "attack": asdict(Effort(arguments.iterations)),
        "seeds": measured,
    }
    write_atomically(RESULT, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
