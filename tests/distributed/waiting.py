"""One of two ranks works for longer than the others wait for a sum; with `patient`, they wait for it."""

import sys
import time
from datetime import timedelta

from infprune import ranks

ranks.PATIENCE = timedelta(seconds=2)
ranks.join()
with ranks.patient() as wait:
    if ranks.rank() == 1:
        time.sleep(6)
    if "patient" in sys.argv:
        wait()
assert ranks.totals(1.0) == [2.0]
sys.stdout.write("met ")
ranks.finish()
ranks.leave(0)
