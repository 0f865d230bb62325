"""Kernels that release the interpreter's lock, cut over as many threads as torch may use."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import torch


def in_threads(kernel: Callable[..., None], count: int, *args: object, pieces: int = 4) -> None:
    """Run ``kernel(begin, end, *args)`` over ``range(count)`` in torch's number of threads.

    Each thread's part is cut into ``pieces``, which whoever is free takes: one piece may hold more
    work than another. Kernels that do something once for each call want one piece only.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *args)
        return
    number = min(count, threads * pieces)
    spans = iter([*pairwise(count * piece // number for piece in range(number + 1))])

    def work() -> None:
        for begin, end in spans:
            kernel(begin, end, *args)

    jobs = [_pool(threads - 1, os.getpid()).submit(work) for _ in range(threads - 1)]
    work()
    for job in jobs:
        job.result()


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return the threads beside this one; a forked process needs its own."""
    return ThreadPoolExecutor(threads, "fedm2ct")
