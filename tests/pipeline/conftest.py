"""Benchmarks small enough for tests."""

from dataclasses import replace

import pytest

from fedm2ct.pipeline.settings import load_setting


@pytest.fixture(scope="session")
def two_sites():
    """Leave sites A and E, low mAs and limited angle, of every setting: the others take time."""

    def fewer(*arguments, **options):
        setting = load_setting(*arguments, **options)
        sites = [site for site in setting.config.sites if site.name in ("A", "E")]
        config = setting.config.model_copy(update={"sites": sites})
        return replace(setting, config=config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedm2ct.pipeline.settings.load_setting", fewer)
        yield fewer
