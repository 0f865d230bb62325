"""The first process compiles, the next ones find it done."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, torch
from fedm2ct.physics.geometry import ImageGrid, ParallelGeometry
from fedm2ct.physics.operators import Projector
from fedm2ct.physics.projectors.ray_kernels import ray_kernels
Projector(ParallelGeometry((0.0, 1.0), 5, 1.0), ImageGrid(4, 4, 1.0))(torch.ones(1, 1, 4, 4))
stats = ray_kernels(8, True)[0].stats
print(json.dumps([sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    hits_and_misses = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        hits_and_misses.append(json.loads(done.stdout))
    assert hits_and_misses == [[0, 1], [1, 0]]
