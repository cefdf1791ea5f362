"""Take back what a model learned from given data: one method per file; which weights may change in `selection`."""

from collections.abc import Callable

from infprune.unlearning.classic import classic
from infprune.unlearning.contract import Linearised, Shift
from infprune.unlearning.fif import fif
from infprune.unlearning.gif import gif
from infprune.unlearning.pif import pif
from infprune.unlearning.second_order import second_order

METHODS: dict[str, Callable[[Linearised], Shift]] = {
    "gif": gif,
    "fif": fif,
    "pif": pif,
    "if": classic,
    "second-order": second_order,
}
WHOLE = ("if", "second-order")  # they change every parameter, whatever was selected
