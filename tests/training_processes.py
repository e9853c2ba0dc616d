"""Processes that train together, each as a launcher would have started it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import torch
from torch import multiprocessing

PATIENCE = 300.0
"""seconds after which processes that still wait for each other are ended"""


IMPORTED = ["accelerate", "faiss", "torch", "transformers.models.bert.modeling_bert"]
"""what takes long to import: once, by a process that all others are forks of"""


def run_together(count: int, work: Callable[..., None], *arguments: object) -> None:
    """Calls ``work(rank, *arguments)`` in each of `count` processes.

    work: a function of a module. What one of them raises is raised here, and so is TimeoutError
    where they hang: by itself a run waits for a day.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    multiprocessing.set_forkserver_preload(IMPORTED)
    started = multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _work_as_launched,
        (count, port, work, arguments),
        nprocs=count,
        join=False,
        start_method="forkserver",
    )
    end = time.monotonic() + PATIENCE
    while not started.join(timeout=max(end - time.monotonic(), 0.0)):
        if time.monotonic() >= end:
            for process in started.processes:
                process.kill()
            raise TimeoutError(f"{count} processes are not done after {PATIENCE:.0f} s")


def _work_as_launched(
    rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in launched.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    work(rank, *arguments)
