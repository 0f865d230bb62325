"""The smallest federation that is still a real one: two geometries, 16 x 16, ellipse bodies."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from fedm2ct.config import RunConfig, TrainingConfig, parse_config
from fedm2ct.data.scans import Scan
from fedm2ct.data.simulate import Measurements, PairedData, simulate
from fedm2ct.federation.methods.setup import Setup
from fedm2ct.learning.seeds import generator
from fedm2ct.learning.trainer import SiteTask
from fedm2ct.physics.geometry import FanGeometry, ImageGrid, ParallelGeometry, equispaced_angles
from fedm2ct.physics.noise import add_dose_noise
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.phantoms import abdomen_like, ellipse_image
from fedm2ct.physics.protocols import Protocol
from fedm2ct.units import MU_WATER_PER_MM, relative_to_hu

GRID = ImageGrid(16, 16, 25.0)
PARALLEL = Protocol(
    "parallel", ParallelGeometry(equispaced_angles(20, math.pi), 24, 17.0), GRID, 5e4, 5.0
)
FAN = Protocol(
    "fan", FanGeometry(equispaced_angles(24), 22, 36.0, 595.0, 1085.6, "curved"), GRID, 1e4, 5.0
)
PROTOCOLS = {"A": FAN, "B": PARALLEL}


def scan(name: str, seed: int, slices: int = 5) -> Scan:
    """Return a stack of random bodies on 32 x 32 pixels of 12.5 mm."""
    hu = np.stack([_body(name, seed, index) for index in range(slices)])
    return Scan(hu, (5.0, 12.5, 12.5), name, name, {})


@cache
def _body(name: str, seed: int, index: int) -> np.ndarray:
    body = abdomen_like(generator(seed, name, index))
    image = ellipse_image(body, ImageGrid(32, 32, 12.5))[0, 0].numpy()
    return relative_to_hu(image).astype(np.float32)


def paired(protocol: Protocol, seed: int, slices: int = 4) -> PairedData:
    """Return a protocol's acquisition of random bodies."""
    body = scan(protocol.name, seed, slices)
    return simulate(body, range(slices), protocol, generator(seed, "noise"))


def measured_pixels(protocol: Protocol, seed: int, slices: int = 4) -> PairedData:
    """Return measurements of the truth's own pixels.

    Of pixels of 25 mm, no image on the grid explains what the bodies themselves measure.
    """
    truth = paired(protocol, seed, slices).truth
    clean = Projector(protocol.geometry, protocol.grid)(truth) * MU_WATER_PER_MM
    noise = generator(seed, "noise of pixels")
    noisy = add_dose_noise(clean, protocol.photons, protocol.electronic_noise, noise)
    return PairedData(noisy, truth, clean)


def task(name: str, seed: int = 1, slices: int = 4) -> SiteTask:
    """Return a site with `slices` slices to train on and two to validate on."""
    protocol = PROTOCOLS[name]
    return SiteTask(
        name,
        protocol,
        paired(protocol, seed, slices),
        paired(protocol, seed + 100, slices=2),
        images=[(scan(protocol.name, seed, slices), range(slices))],
    )


def training(**changes: Any) -> TrainingConfig:
    """Return a short schedule."""
    return TrainingConfig(**{"rounds": 3, "local_steps": 2, "batch_size": 2, **changes})


def config(**changes: dict[str, Any]) -> RunConfig:
    """Return a run's configuration; `changes` replaces fields of its tables."""
    base: dict[str, Any] = {
        "name": "tiny",
        "methods": ["fedm2ct"],
        "image_size": 16,
        "sites": [
            {"name": name, "protocol": "demo-sparse", "scans": [f"phantom-{i}"]}
            for i, name in enumerate(PROTOCOLS, 1)
        ],
        "test": {"scans": ["phantom-8"]},
        "meta": {"scans": ["phantom-9"], "slices": 2, "held_out": 0.4},
        "model": {"width": 2},
        "training": training().model_dump(),
        "fedm2ct": {"meta_steps": 2, "ramp_rounds": 1},
    }
    for table, fields in changes.items():
        base[table] = {**base.get(table, {}), **fields}
    return parse_config(base)


def without_truth(whole: SiteTask) -> SiteTask:
    """Return the task of a site that has no normal-dose images."""
    train, validation = whole.train.projections, whole.validation.projections
    return replace(whole, train=Measurements(train), validation=Measurements(validation), images=())


def setup(seed: int = 3, unpaired: tuple[str, ...] = (), **changes: dict[str, Any]) -> Setup:
    """Return what a method is built from; site B has more slices than site A.

    The sites in `unpaired` have no normal-dose images.
    """
    tasks = [task("A"), task("B", slices=6)]
    tasks = [without_truth(t) if t.name in unpaired else t for t in tasks]
    return Setup(config(**changes), tasks, seed, [(scan("public", 50, 4), range(4))])


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether two states have the same names and the same bits."""
    return a.keys() == b.keys() and all(np.array_equal(a[n].numpy(), b[n].numpy()) for n in a)
