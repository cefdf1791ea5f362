"""Independent pieces of work, one after the other, in processes of their own, or by several ranks."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from torch import Tensor

from infprune import ranks
from infprune.config import Config
from infprune.errors import ConfigError

Make = Callable[[Config], Callable[[str], Any]]
"""Opens what the work needs, once per process, and returns what does one piece, by key. A top-level function."""

_work: list[Callable[[str], Any]] = []


def worked(keys: Sequence[str], make: Make, settings: Config, workers: int) -> Iterator[tuple[str, Any]]:
    """Do all pieces in that many new processes, and give key and result of each, in order.

    With the same number of threads the results are those of one process.

    Raises:
        ConfigError: a process was killed.
        InfpruneError: as the work says.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and hang
    pool = ProcessPoolExecutor(min(workers, len(keys)), context, _begin, (make, settings))
    try:
        yield from zip(keys, pool.map(_do, keys), strict=True)
    except BrokenProcessPool as error:
        raise ConfigError(
            "samples.workers: a process was killed, perhaps out of memory; what was finished is kept: use fewer, and "
            "--resume"
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # nobody waits for their results
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def processes(settings: Config) -> int:
    """How many processes train at once, besides the ranks.

    Raises:
        ConfigError: there are ranks, which train at once themselves.
    """
    count = settings.samples.workers
    if count > 1 and ranks.world() > 1:
        raise ConfigError(
            f"samples.workers: expected 1, since {ranks.world()} ranks share the trainings, got {count}; set it to 1, "
            "or start the command without torchrun"
        )
    return count


def in_rounds(keys: Sequence[str], do: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Do all pieces, one per rank at a time, apart from the others; give every rank key and result of each, in order.

    Results are vectors on the CPU, of one length. With the same number of threads they are those of one process. After
    each round all ranks have its results: an interrupted run loses one round.

    Raises:
        ConfigError: the ranks have not the same pieces to do.
        InfpruneError: as the work says.
    """
    ranks.alike("finished trainings (of --resume; is run.dir on a file system that all see?)", str(list(keys)))
    here = ranks.rank()
    with ranks.patient() as wait:
        for first in range(0, len(keys), ranks.world()):
            some = keys[first : first + ranks.world()]
            with ranks.apart():
                mine = [do(key) for key in some[here : here + 1]]
            wait()
            found = ranks.joined(torch.cat(mine) if mine else torch.zeros(0, dtype=torch.float64))
            yield from zip(some, found.chunk(len(some)), strict=True)


def _begin(make: Make, settings: Config) -> None:
    _work.append(make(settings))


def _do(key: str) -> Any:
    return _work[0](key)
