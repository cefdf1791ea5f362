"""Look up and call what a configuration names as ``pkg.mod:function``."""

import difflib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from infprune.errors import ConfigError, InfpruneError


def one_line(error: BaseException) -> str:
    """Return the type and message of a foreign exception on one line of at most 240 characters."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 240, placeholder=" ...")


def resolve(spec: str, what: str) -> Callable[..., Any]:
    """Import the callable that ``spec`` names; the working directory comes first, as under ``python -m``.

    ``what`` names the setting in messages, for example ``model.factory``.

    Raises:
        ConfigError: ``spec`` is malformed, its module cannot be imported, or it names no callable.
    """
    module_name, _, name = spec.partition(":")
    if not (name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise ConfigError(f"{what} must read pkg.mod:function, got {spec!r}")
    module = _import(module_name, what)
    found = getattr(module, name, None)
    if not callable(found):
        close = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"did you mean {module_name}:{close[0]}?" if close else "define it there or correct the name"
        raise ConfigError(f"{what}: module {module_name} has no function {name!r}; {hint}")
    return found  # type: ignore[no-any-return] # getattr on a module


def _import(name: str, what: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        if absent:
            raise ConfigError(f"{what}: no module {name!r}; install it or run in the folder that holds it") from error
        raise ConfigError(f"{what}: importing {name} failed with {one_line(error)}; correct that module") from error


def call(
    make: Callable[..., Any], args: Mapping[str, Any], *, name: str, section: str, error: type[InfpruneError]
) -> Any:
    """Return ``make(**args)``; a failure becomes one line about ``name`` and the setting ``{section}.args``.

    Raises:
        ConfigError: the arguments do not fit the function.
        InfpruneError: of the type ``error``: the function itself failed.
    """
    try:
        _fit(make, args)
        return make(**args)
    except InfpruneError:
        raise
    except Exception as cause:
        if isinstance(cause, _UnfitError) or (isinstance(cause, TypeError) and args):
            given = sorted(map(str, args))
            raise ConfigError(
                f"{section}.args {given} do not fit {name}: {' '.join(str(cause).split())}; correct names and types"
            ) from cause
        raise error(f"{name} failed with {one_line(cause)}; correct {section}.args or the function") from cause


class _UnfitError(TypeError):
    """The names of the arguments do not match the signature."""


def _fit(make: Callable[..., Any], args: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # some C functions have none: the call itself decides
        return
    try:
        signature.bind(**args)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        raise _UnfitError(f"{error}; it takes ({takes})") from None
