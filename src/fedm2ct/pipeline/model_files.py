"""A site's trained model on disk: safetensors, with its networks and protocol as metadata."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fedm2ct.errors import FedM2CTError
from fedm2ct.files import write_atomically
from fedm2ct.model.ts_iradonmap import ModelSpec, TSiRadonMAP
from fedm2ct.physics.protocols import protocol_from_dict, protocol_to_dict

_FORMAT = "fedm2ct-model-1"


def save_model(model: TSiRadonMAP, state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a model with the given state, atomically."""
    metadata = {
        "format": _FORMAT,
        "spec": json.dumps(asdict(model.spec)),
        "protocol": json.dumps(protocol_to_dict(model.protocol)),
    }
    write_atomically(path, save({n: t.contiguous() for n, t in state.items()}, metadata))


def load_model(path: Path) -> TSiRadonMAP:
    """Read a model.

    Raises
    ------
    FedM2CTError
        When the file is missing, damaged, or not a model of this project.
    """
    if not path.is_file():
        raise FedM2CTError(
            f"{path}: there is no such model; has the run finished? (What a benchmark has restored "
            "has none: leave such methods out)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safetensors file has no iterator
        if metadata.get("format") != _FORMAT:
            raise FedM2CTError(f"{path}: is not a model of this project ({_FORMAT})")
        spec = ModelSpec(**json.loads(metadata["spec"]))
        protocol = protocol_from_dict(json.loads(metadata["protocol"]))
        model = TSiRadonMAP(protocol, spec)
        model.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise FedM2CTError(f"{path}: is damaged ({reason}); run the training again") from None
    return model.eval()
