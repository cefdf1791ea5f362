"""The command line, on a machine that kills rank 1 where it has collected its statistics."""

import os
import signal

from infprune.cli import main
from infprune.curvature.kronecker import KroneckerObserver


def die(self, draws):
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ["RANK"] == "1":
    KroneckerObserver.result = die
main()
