"""Every method has a name, a place and a look of its own."""

import pytest

from fedm2ct.federation.methods import METHODS
from fedm2ct.pipeline.conventional import CONVENTIONAL
from fedm2ct.report import style

EVERY = [*CONVENTIONAL, *METHODS]


@pytest.mark.parametrize("method", EVERY)
def test_every_method_of_the_project_has_a_label_and_a_group(method):
    assert method in style.LABELS
    assert style.group(method) != style.OTHER


def test_nothing_else_has_one_and_no_two_share_it():
    assert set(style.LABELS) == set(EVERY)
    labels = [style.label(method) for method in EVERY]
    assert len(set(labels)) == len(labels)
    assert {m for m in EVERY if style.label(m).endswith("*")} == {"pooled", "pooled_plain"}


def test_the_order_is_conventional_local_federated_own_reference():
    order = style.ordered([*EVERY, "zebra", "ant"])
    groups = list(dict.fromkeys(style.group(method) for method in order))
    assert groups == ["conventional", "local", "federated", "own", "reference", "other"]
    assert order[0] == "fbp" and order[-2:] == ["ant", "zebra"]
    assert style.group("fedprox") == "federated"


def test_no_two_methods_look_alike_in_colour_or_in_grey():
    names = [*EVERY, "ant", "zebra"]
    looks = [style.look(method, names) for method in names]
    assert len({(x.colour, x.line) for x in looks}) == len(names)
    assert len({(x.line, x.marker) for x in looks}) == len(names)


def test_a_known_method_looks_the_same_in_any_company():
    assert style.look("ditto", ["ditto"]) == style.look("ditto", EVERY)
    assert style.look("ant", ["ant", "fbp"]) == style.look("ant", ["ant"])


def test_ours_stands_out():
    widths = {method: style.look(method, EVERY).width for method in EVERY}
    assert widths.pop("fedm2ct") > 1.5 * max(widths.values())
