"""Work in forked processes: one that dies or hangs costs its own case and no other."""

import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence

from fuzzing.case import SECONDS, Outcome

GRACE = 10  # seconds for code that takes no signal


def each(work: Callable[[int], Outcome], numbers: Sequence[int], batch: int) -> Iterator[tuple[int, Outcome]]:
    """Call `work` on every number, in processes that take up to `batch` of them."""
    todo = list(numbers)
    while todo:
        done = 0
        for outcome in _batch(work, todo[:batch]):
            yield todo[done], outcome
            done += 1
        todo = todo[done:]


def _batch(work: Callable[[int], Outcome], numbers: Sequence[int]) -> Iterator[Outcome]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "wb") as out:
                for number in numbers:
                    pickle.dump(work(number), out)
                    out.flush()
        except BaseException:  # noqa: BLE001 - as said below
            traceback.print_exc()  # and go no further: what follows is the parent's
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as found:
        for _ in numbers:
            if not select.select([found], [], [], SECONDS + GRACE)[0]:
                yield Outcome(-1, "", (f"hung for {SECONDS + GRACE} s in code that takes no signal",))
                break
            try:
                yield pickle.load(found)  # noqa: S301 - our own child wrote it
            except EOFError:
                yield Outcome(-1, "", ("the process died",))
                break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
