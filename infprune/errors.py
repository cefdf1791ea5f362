"""The exception tree. Each leaf is one exit code of the command line (README, "Exit codes")."""


class InfpruneError(Exception):
    """A mistake in the input, told in one line: what was expected, what came, what to do."""

    exit_code = 1


class ConfigError(InfpruneError):
    """The command line or the configuration file is wrong, or asks for more memory than there is."""

    exit_code = 2


class ArchitectureError(InfpruneError):
    """The network cannot be built, traced or cut."""

    exit_code = 3


class BudgetError(InfpruneError):
    """No plan meets the budget within the floors."""

    exit_code = 4


class QualityError(InfpruneError):
    """The result exists but misses an asked quality (accuracy, drop, equality of outputs)."""

    exit_code = 5


class InputError(InfpruneError):
    """Data, checkpoint or output location (standard output too) is missing, unreadable or invalid."""

    exit_code = 6


class Stopped(BaseException):  # passes by the `except Exception` of torch and of networks' code
    """Time or memory is used up; raised from outside, at any point of the work (`infprune.pipeline.bounds`)."""


INTERRUPTED = 130


_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch says it in a `RuntimeError` on the CPU, and in its own type on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY)
