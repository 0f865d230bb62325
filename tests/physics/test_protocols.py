import json
import math
import warnings
from dataclasses import replace

import pytest

from fedm2ct.physics.geometry import FanGeometry, ImageGrid
from fedm2ct.physics.protocols import (
    PROTOCOLS,
    ProtocolError,
    TruncationWarning,
    get_protocol,
    protocol_from_dict,
    protocol_to_dict,
    truncation_mm,
    warn_if_truncated,
)

FAN = {
    "name": "here",
    "beam": "fan",
    "detector": "curved",
    "views": 100,
    "span_deg": 200,
    "bins": 64,
    "pitch_mm": 8.0,
    "source_to_isocentre_mm": 500,
    "source_to_detector_mm": 1000,
    "size": 32,
    "pixel_mm": 6.0,
    "photons": 1e5,
    "kernel": "soft",
}


def without(*fields):
    return {k: v for k, v in FAN.items() if k not in fields}


def test_the_published_protocols_are_there():
    names = {"mayo", "lodopab"}
    names |= {f"hyperfed-{i}" for i in range(1, 6)} | {f"scan-physfed-{i}" for i in range(1, 9)}
    names |= {"demo-low-mas", "demo-sparse", "demo-limited", "demo-parallel"}
    names |= {f"{kind}-{i}" for kind in ("low-mas", "sparse", "limited") for i in (1, 2)}
    assert names == set(PROTOCOLS)
    assert all(p.source and p.name == name for name, p in PROTOCOLS.items())
    mayo = get_protocol("mayo").geometry
    assert isinstance(mayo, FanGeometry) and mayo.detector == "curved"
    assert mayo.shape == (1152, 736) and mayo.source_to_detector_mm == 1085.6
    third = get_protocol("scan-physfed-3")
    assert third.geometry.shape == (512, 768) and third.photons == 5e4
    assert third.geometry.source_to_detector_mm == 900.0


def test_a_flying_focal_spot_survives_json():
    shifts = {
        "source_angle_shift_rad": [0.001, -0.001] * 50,
        "source_radial_shift_mm": [1.0, 0.0] * 50,
    }
    protocol = protocol_from_dict({**FAN, **shifts})
    assert protocol.geometry.source_angle_shift_rad == (0.001, -0.001) * 50
    assert protocol_from_dict(json.loads(json.dumps(protocol_to_dict(protocol)))) == protocol
    with pytest.raises(ProtocolError, match=r"'here'.*one finite number for each of the 100 views"):
        protocol_from_dict({**FAN, "source_radial_shift_mm": [1.0]})
    with pytest.raises(ProtocolError, match="source_radial_shift_mm must be a list of numbers"):
        protocol_from_dict({**FAN, "source_radial_shift_mm": 1.0})


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_every_protocol_sees_its_field_of_view_and_survives_json(protocol):
    assert truncation_mm(protocol) < 1e-9
    assert protocol_from_dict(json.loads(json.dumps(protocol_to_dict(protocol)))) == protocol


def test_odd_angles_survive_too():
    geometry = replace(get_protocol("demo-sparse").geometry, angles_rad=(0.1, 2.0, -7.3))
    protocol = replace(get_protocol("demo-sparse"), geometry=geometry, grid=ImageGrid(3, 4, 1.0))
    assert protocol_from_dict(json.loads(json.dumps(protocol_to_dict(protocol)))) == protocol


def test_a_typo_offers_the_closest_name():
    with pytest.raises(ProtocolError, match="demo-sparse"):
        get_protocol("demo-sprase")
    with pytest.raises(ProtocolError, match="mayo"):
        get_protocol("???")


def test_from_dict_reads_every_field():
    protocol = protocol_from_dict(FAN)
    geometry = protocol.geometry
    assert isinstance(geometry, FanGeometry) and geometry.detector == "curved"
    assert geometry.angles_rad[1] == pytest.approx(math.radians(2.0))
    assert protocol.grid == ImageGrid(32, 32, 6.0)
    assert (protocol.electronic_noise, protocol.kernel, protocol.tube_kvp) == (0.0, "soft", None)
    explicit = protocol_from_dict({**without("views", "span_deg"), "angles_deg": [0, 90]})
    assert explicit.geometry.angles_rad == (0.0, math.pi / 2)


@pytest.mark.parametrize(
    ("d", "message"),
    [
        ({**FAN, "photon": 5}, "unknown field 'photon'; did you mean 'photons'"),
        (without("photons"), "'photons' is missing"),
        (without("name"), "'name' is missing"),
        (without("views"), "'views' .* is missing"),
        (without("size"), "'size' is missing"),
        ({**FAN, "views": 2.5}, "views must be a whole number"),
        ({**FAN, "views": 0}, "n_views"),
        ({**FAN, "photons": "many"}, "photons must be a finite number"),
        ({**FAN, "photons": -1}, "photons must be positive"),
        ({**FAN, "photons": 0.5}, "photons is 0.5.*give at least 1"),
        ({**FAN, "photons": math.nan}, "photons must be a finite number"),
        ({**FAN, "electronic_noise": -1}, "electronic_noise"),
        ({**FAN, "beam": "cone"}, "beam must be 'parallel' or 'fan'"),
        ({**FAN, "beam": "parallel"}, "remove it"),
        ({**FAN, "detector": "round"}, "'flat' or 'curved'"),
        ({**FAN, "angles_deg": [1, 2]}, "not both"),
        ({**FAN, "rows": 4}, "not both"),
        ({**FAN, "source_to_detector_mm": 10}, "source_to_detector_mm"),
        ([], "must be a table"),
    ],
)
def test_from_dict_names_the_bad_field(d, message):
    with pytest.raises(ProtocolError, match=message):
        protocol_from_dict(d)


def test_scaled_keeps_the_field_of_view_and_the_detector():
    mayo = get_protocol("mayo")
    small = mayo.scaled(128)
    assert small.grid == ImageGrid(128, 128, 3.0)
    assert small.geometry.n_bins == 184 and small.geometry.n_views == 1152
    assert small.geometry.covered_radius_mm == pytest.approx(mayo.geometry.covered_radius_mm)
    assert small.photons == pytest.approx(4 * mayo.photons)
    assert small.electronic_noise == pytest.approx(2 * mayo.electronic_noise)
    with pytest.raises(ProtocolError, match="scaled"):
        mayo.scaled(0)


def test_truncation_is_measured_and_warned_about():
    protocol = get_protocol("demo-parallel")
    assert truncation_mm(protocol, 250.0) == pytest.approx(20.0)
    assert truncation_mm(protocol, ImageGrid(10, 12, 50.0)) == pytest.approx(20.0)
    with pytest.warns(TruncationWarning, match=r"20\.0 mm"):
        assert warn_if_truncated(protocol, 250.0) == pytest.approx(20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_if_truncated(protocol) == 0.0


def test_a_shifted_detector_of_a_full_turn_covers_its_long_side():
    protocol = get_protocol("demo-low-mas")
    geometry = replace(protocol.geometry, n_bins=120, detector_offset_mm=100.0)
    half = (60 * geometry.detector_pitch_mm + 100.0) / 1085.6
    long_side = 595.0 * math.sin(math.atan(half))
    shifted = replace(protocol, geometry=geometry)
    assert truncation_mm(shifted, long_side + 5.0) == pytest.approx(5.0, abs=1.5)
