"""Several processes, one run: every rank runs the same story on its share of the data, and sums make one result.

In one process all of this is the identity. Started by `torchrun`, or by anything that sets its variables (`RANK`,
`WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`, and `LOCAL_RANK` for GPUs). Only tensors travel, nothing is pickled.
"""

import atexit
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from infprune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = timedelta(minutes=30)  # for a rank that neither comes nor dies
LIFELONG = timedelta(days=365)  # for one that is known to be long at work
GOODBYE = timedelta(seconds=10)  # for the store, when a run ends in failure
FAILED = "infprune/failed"  # key of the store: exit code of the first rank that failed


@dataclass(frozen=True)
class _Membership:
    rank: int
    world: int
    store: Any


@dataclass
class _Here:
    """This process: its place among the ranks, None when alone; whether it is the one that writes and speaks.

    `met`: whether it has ever been one of several.
    """

    member: _Membership | None = None
    leads: bool = True
    met: bool = False


_here = _Here()


def asked() -> bool:
    """Whether this process was started as one of several ranks."""
    world = os.environ.get("WORLD_SIZE", "1")
    return "RANK" in os.environ and world.isdecimal() and int(world) > 1


def join() -> None:
    """Meet the other ranks, if this process was started as one of several.

    Raises:
        ConfigError: they cannot be met.
    """
    if not asked():
        return
    import torch  # noqa: PLC0415 - keeps --help fast
    from torch import distributed  # noqa: PLC0415
    from torch._C._distributed_c10d import PrefixStore  # noqa: PLC0415 - for type checkers it lives here
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415

    _here.leads = os.environ["RANK"] == "0"
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("infprune/group", store),
            rank=rank,
            world_size=world,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        told = str(error).partition("\n")[0]
        raise ConfigError(f"cannot meet the other ranks ({told}); start infprune with torchrun") from error
    _here.member, _here.met = _Membership(rank, world, store), True


def rank() -> int:
    """The number of this process."""
    return 0 if _here.member is None else _here.member.rank


def world() -> int:
    """How many processes work together."""
    return 1 if _here.member is None else _here.member.world


def leads() -> bool:
    """Whether this process writes files, prints and shows progress: rank 0, or the first rank that failed."""
    return _here.leads


def local_rank() -> int:
    """The number of this process on its machine: its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world() > 1 else 0


def local_world() -> int:
    """How many of the processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world())) if world() > 1 else 1


@contextmanager
def apart() -> Iterator[None]:
    """Let this rank be alone for a while, shares and sums included: work that it does by itself, as others do theirs.

    Which process writes and speaks stays as it is.
    """
    member, _here.member = _here.member, None
    try:
        yield
    finally:
        _here.member = member


@contextmanager
def patient() -> Iterator[Callable[[], None]]:
    """Give what waits for all ranks as long as they live, for work of unknown length; the end of one is noticed.

    Every rank opens and closes it. Other sums give up a rank after `PATIENCE`.
    """
    if world() == 1:
        yield lambda: None
        return
    import torch  # noqa: PLC0415 - keeps --help fast
    from torch import distributed  # noqa: PLC0415

    group = distributed.new_group(backend="gloo", timeout=LIFELONG)
    assert isinstance(group, distributed.ProcessGroup)

    def wait() -> None:
        distributed.all_reduce(torch.zeros(1), group=group)  # `barrier` would take another timeout

    yield wait
    distributed.destroy_process_group(group)


# --- the end


def finish() -> None:
    """Wait until every rank has come to its end, and part."""
    if _here.member is None:
        return
    from torch import distributed  # noqa: PLC0415

    totals(0.0)  # a barrier that needs no GPU
    _here.member = None
    distributed.destroy_process_group()


def fail(code: int) -> int:
    """Part from the others because this rank has failed; gives the exit code of the rank that failed first.

    That one `leads` from then on: it tells what happened, and the others, who only notice that it is gone, are silent.
    What `torchrun` sends to the others no longer interrupts this rank.
    """
    member, _here.member = _here.member, None
    if member is None:
        return code
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _here.leads, first = True, str(code)
    with suppress(RuntimeError):  # the store is gone: nobody else is left to tell
        member.store.set_timeout(GOODBYE)
        mine = f"{member.rank} {code}"
        found = member.store.compare_set(FAILED, "", mine).decode()
        _here.leads, first = found == mine, found.split()[-1]
    return int(first)


def leave(code: int) -> None:
    """End this process at once if it was one of several ranks; a process that always was alone goes on.

    What is registered with `atexit` runs and output is flushed, but Python does not take itself apart: threads of gloo
    outlive their group where a network was distributed (torch 2.9 to 2.14), and one that then frees a tensor that
    Python knows aborts the process, good work done or not.
    """
    if not _here.met:
        return
    atexit._run_exitfuncs()  # noqa: SLF001 - what Python's own end would run
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # full or closed: told before, where it matters
            stream.flush()
    os._exit(code)


def lost(error: BaseException) -> bool:
    """Whether this is how the end of another rank shows here."""
    if _here.member is None or not isinstance(error, RuntimeError):
        return False
    from torch import distributed  # noqa: PLC0415

    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return isinstance(error, distributed.DistError) or any(word in str(error).lower() for word in words)


LOST = (
    "another rank ended without a word (killed, or out of memory), which ends all of them; files already written are "
    "whole, see the summary of torchrun for the rank"
)


# --- shares


@dataclass(frozen=True)
class Share:
    """The batches of this rank; `first` batches, of the sizes `before`, belong to lower ranks, of `count` in all."""

    batches: Any
    first: int
    before: tuple[int, ...]
    count: int

    @property
    def skipped(self) -> int:
        """Samples of lower ranks."""
        return sum(self.before)


def share(batches: Any, *, least: int = 0) -> Share:
    """Give each rank a contiguous run of whole batches, so that a batch means the same on any number of ranks.

    Args:
        batches: sized and sliceable; what is no list tells the `sizes` of its batches. In one process, anything.
        least: batches that every rank needs.

    Raises:
        ConfigError: there are fewer.
    """
    if world() == 1:
        return Share(batches, 0, (), len(batches) if hasattr(batches, "__len__") else 0)
    count = len(batches)
    if count < least * world():
        raise ConfigError(
            f"{world()} ranks need at least {least * world()} batches of samples, there are {count}; "
            "lower data.batch_size, raise data.calibration or start fewer ranks"
        )
    start, stop = part(count)
    sizes = batches.sizes if hasattr(batches, "sizes") else [len(y) for _, y in batches]
    return Share(batches[start:stop], start, tuple(sizes[:start]), count)


def part(count: int) -> tuple[int, int]:
    """Where this rank's part of `count` things starts and stops."""
    return count * rank() // world(), count * (rank() + 1) // world()


def heaviest_first(costs: Sequence[float]) -> list[int]:
    """The tasks of this rank, by number, ascending: each, the dearest first, goes to the rank with the least to do."""
    load, mine = [0.0] * world(), list[int]()
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        taker = load.index(min(load))
        load[taker] += costs[i]
        if taker == rank():
            mine.append(i)
    return sorted(mine)


# --- sums; every rank calls them in the same order


def total(value: "Tensor") -> "Tensor":
    """The sum over ranks, the same bits on each."""
    if world() == 1:
        return value
    from torch import distributed  # noqa: PLC0415

    value = value.detach().clone().contiguous()
    distributed.all_reduce(value)
    return value


def totals(*values: float) -> list[float]:
    """Sums of numbers over ranks."""
    if world() == 1 or not values:
        return list(values)
    import torch  # noqa: PLC0415

    found: list[float] = total(torch.tensor(values, dtype=torch.float64)).tolist()
    return found


def joined(rows: "Tensor") -> "Tensor":
    """The rows `(N_r, ...)` of all ranks, in the order of the ranks."""
    if world() == 1:
        return rows
    counts = totals(*(float(len(rows)) if r == rank() else 0.0 for r in range(world())))
    before = round(sum(counts[: rank()]))
    whole = rows.new_zeros(round(sum(counts)), *rows.shape[1:])
    whole[before : before + len(rows)] = rows
    return total(whole)


def visited(batches: Any, visit: Callable[[Any, "Tensor"], "Tensor"]) -> "Tensor":
    """The rows `(N, ...)` that `visit` makes of all batches (x, y), in order; too few to share are visited by all."""
    import torch  # noqa: PLC0415

    if len(batches) < world():
        return torch.cat([visit(x, y) for x, y in batches])
    return joined(torch.cat([visit(x, y) for x, y in share(batches).batches]))


def agreed(value: "Tensor") -> "Tensor":
    """Rank 0's tensor, for all: what unlike machines could compute with other roundings."""
    if world() == 1:
        return value
    from torch import distributed  # noqa: PLC0415

    value = value.detach().clone().contiguous()
    distributed.broadcast(value, 0)
    return value


def once(work: Callable[[], Sequence[float]], count: int) -> list[float]:
    """Numbers that rank 0 measures while the others wait: the clock's, which differ everywhere."""
    found = list(work()) if rank() == 0 else [0.0] * count
    return totals(*found)


def alike(what: str, content: str) -> None:
    """Check that all ranks hold the same.

    Raises:
        ConfigError: they do not.
    """
    if world() == 1:
        return
    import torch  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415

    digest = hashlib.sha256(content.encode()).digest()
    mine = torch.tensor(list(digest), dtype=torch.int64)
    found = torch.cat([mine, -mine])
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    if not torch.equal(found[: len(mine)], -found[len(mine) :]):
        raise ConfigError(
            f"the ranks do not have the same {what}; give all of them the same command, files, versions and hardware"
        )
