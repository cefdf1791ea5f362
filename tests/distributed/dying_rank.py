"""The command line, on a machine that kills rank 1 where it has collected its statistics, or trains on a subset."""

import os
import signal

from infprune.attribution import memorisation
from infprune.cli import main
from infprune.curvature.kronecker import KroneckerObserver


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ["RANK"] == "1":
    KroneckerObserver.result = memorisation._one = die
main()
