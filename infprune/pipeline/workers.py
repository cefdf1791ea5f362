"""Independent pieces of work, one after the other or in processes of their own."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

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


def _begin(make: Make, settings: Config) -> None:
    _work.append(make(settings))


def _do(key: str) -> Any:
    return _work[0](key)
