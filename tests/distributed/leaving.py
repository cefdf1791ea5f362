"""One of several ranks that ends with the code it is told, and must not be taken apart by Python."""

import atexit
import os
import sys

from infprune import ranks


class Fragile:
    """Freed when Python takes itself apart; aborts the process, as a thread that outlives a process group can."""

    def __del__(self):
        os.abort()


fragile = Fragile()
atexit.register(print, "registered")
if len(sys.argv) > 2:
    ranks.join()
    ranks.finish()
sys.stdout.write("told ")  # waits in its buffer
ranks.leave(int(sys.argv[1]))
