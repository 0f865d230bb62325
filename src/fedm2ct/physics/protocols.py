"""Protocols: how a site acquires. The door to everything about them.

What a protocol is: `fedm2ct.physics.protocol`. The built-in ones, with their sources:
`fedm2ct.physics.presets`. Their form in files: `fedm2ct.physics.protocol_files`.
"""

from fedm2ct.physics.presets import PROTOCOLS, get_protocol
from fedm2ct.physics.protocol import (
    Protocol,
    ProtocolError,
    TruncationWarning,
    truncation_mm,
    warn_if_truncated,
)
from fedm2ct.physics.protocol_files import protocol_from_dict, protocol_to_dict

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "ProtocolError",
    "TruncationWarning",
    "get_protocol",
    "protocol_from_dict",
    "protocol_to_dict",
    "truncation_mm",
    "warn_if_truncated",
]
