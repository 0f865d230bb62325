"""What a result depends on, as short hashes: equal hashes may share a folder, others may not.

A unit's result depends on what all units of a run share, and on its own method's options: methods
and seeds may be added to a run, and one method's options may change, without touching the others.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from fedm2ct.config import FedM2CTConfig, HybridConfig, MethodConfig, ModelConfig, RunConfig

_OF_SOME_UNITS = frozenset(
    {"name", "methods", "seeds", "test", "window", "evaluation", "fedm2ct", "method", "hybrid"}
)
"""What not all training of a run depends on; a field that is not here concerns every unit."""
SCORES = 2
"""Version of what a result holds: results of another one are scored again on ``--resume``."""
READS_OUR_OPTIONS = {"fedm2ct": tuple(FedM2CTConfig.model_fields), "sc3fl": ("meta_steps",)}
"""Which fields of the table ``[fedm2ct]`` methods read; a test builds every method and watches."""
HAS_PRIVATE = ("fedm2ct", "fedkd", "fml", "local", "local_public")
"""The methods that read the fields of `_USUAL`; the same test watches."""
READS_HYBRID = ("fedm2ct", "local")
"""The methods that read ``[hybrid]`` where a site has no normal-dose images; watched likewise."""
_USUAL = {name: ModelConfig.model_fields[name].default for name in ("private", "private_sees_fbp")}
"""What ``[model]`` says of the private image network, and the values that need no mention."""


def run_fingerprint(config: RunConfig) -> str:
    """Hash what the training of every unit of a run depends on."""
    shared = config.model_copy(update={"model": config.model.model_copy(update=_USUAL)})
    return _hash({n: v for n, v in _tables(shared).items() if n not in _OF_SOME_UNITS})


def unit_fingerprint(config: RunConfig, method: str) -> str:
    """Hash what the training of one method depends on."""
    return _hash({"run": run_fingerprint(config), **own_options(config, method)})


def own_options(config: RunConfig, method: str) -> dict[str, Any]:
    """Return what of a configuration some methods read and others do not.

    Fields of the private network count where they are not as they were before there was a choice.
    """
    found: dict[str, Any] = {}
    if method in HAS_PRIVATE:
        given = {name: getattr(config.model, name) for name in _USUAL}
        found.update({name: value for name, value in given.items() if value != _USUAL[name]})
    if method in READS_OUR_OPTIONS:
        table = _tables(config.fedm2ct)
        found["fedm2ct"] = {n: table[n] for n in READS_OUR_OPTIONS[method] if n in table}
    if method in READS_HYBRID and config.hybrid != HybridConfig():
        found["hybrid"] = _plain(config.hybrid)
    if method in MethodConfig.model_fields:
        found["method"] = _plain(getattr(config.method, method))
    return found


def test_fingerprint(config: RunConfig) -> str:
    """Hash what a trained method's scores depend on beside its training."""
    scored = {name: _plain(getattr(config, name)) for name in ("test", "window", "evaluation")}
    return _hash({**scored, "scores": SCORES})


def _plain(value: object) -> object:
    """Return a configuration's value as plain values, without neutral fields."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return _tables(value) if isinstance(value, BaseModel) else value


def _tables(model: BaseModel) -> dict[str, Any]:
    """Return a table's fields as plain values, without neutral ones."""
    neutral: frozenset[str] = getattr(model, "neutral", frozenset())
    return {
        name: _plain(getattr(model, name))
        for name, field in type(model).model_fields.items()
        if not (name in neutral and getattr(model, name) == field.default)
    }


def _hash(relevant: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
