"""Build the network that a configuration names."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from infprune.errors import ArchitectureError, ConfigError
from infprune.imports import call, resolve
from infprune.models import MODELS

TORCHVISION = "torchvision:"
TIMM = "timm:"

# torchvision downloads weights unless told otherwise, and warns when these two are left to their slow initialisation.
_QUIET: dict[str, Any] = {"weights": None, "weights_backbone": None}
_INIT_WEIGHTS = ("googlenet", "inception_v3")


def build(name: str | None, factory: str | None, args: Mapping[str, Any]) -> nn.Module:
    """Return a new network, on the CPU, with untrained weights.

    Args:
        name: a key of ``MODELS``, ``torchvision:NAME`` or ``timm:NAME`` (the optional package timm).
        factory: ``pkg.mod:function`` instead of a name; one of the two is None.
        args: keyword arguments of the function.

    Raises:
        ConfigError: no such name or function, or arguments that do not fit it.
        ArchitectureError: the function failed or returned something else than a module.
    """
    make, label = _maker(name, factory)
    model = call(make, args, name=label, section="model", error=ArchitectureError)
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{label} must return a torch.nn.Module, got {type(model).__name__}; return the network"
        )
    return model


def _maker(name: str | None, factory: str | None) -> tuple[Callable[..., Any], str]:
    if (name is None) == (factory is None):
        both = "both" if name is not None else "neither"
        raise ConfigError(f"expected model.name or model.factory, got {both}; set one and leave the other null")
    if factory is not None:
        return resolve(factory, "model.factory"), factory
    assert name is not None
    if name in MODELS:
        return MODELS[name], name
    if name.startswith(TIMM):
        return _timm(name), name
    return _torchvision(name), name


def _torchvision(name: str) -> Callable[..., Any]:
    from torchvision import models  # noqa: PLC0415 - two seconds that the built-in networks need not pay

    short = name.removeprefix(TORCHVISION)
    known: list[str] = models.list_models()
    if not name.startswith(TORCHVISION) or short not in known:
        raise ConfigError(f"unknown model.name {name!r}; {_suggestion(short, known)}")
    builder = models.get_model_builder(short)
    preset = {key: value for key, value in _QUIET.items() if key in inspect.signature(builder).parameters}
    if short in _INIT_WEIGHTS:
        preset["init_weights"] = True

    def make(**args: Any) -> Any:
        refused = sorted(_QUIET.keys() & args.keys())
        if refused:
            raise ConfigError(f"model.args {refused}: weights are not downloaded; name a file in model.checkpoint")
        return builder(**{**preset, **args})

    return make


def _timm(name: str) -> Callable[..., Any]:
    try:
        import timm  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ConfigError(f"model.name {name} needs the package timm; pip install timm") from error
    short = name.removeprefix(TIMM)
    if not timm.is_model(short):
        close = difflib.get_close_matches(short, timm.list_models(), n=3)
        hint = "did you mean " + " or ".join(TIMM + n for n in close) + "?" if close else "see timm.list_models()"
        raise ConfigError(f"unknown model.name {name!r}; {hint}")

    def make(**args: Any) -> Any:
        if {"pretrained", "checkpoint_path"} & args.keys():
            raise ConfigError("model.args pretrained: weights are not downloaded; name a file in model.checkpoint")
        return timm.create_model(short, **args)

    return make


def _suggestion(short: str, torchvision_names: list[str]) -> str:
    exact = [short] if short in torchvision_names else []
    close = difflib.get_close_matches(short, [*MODELS, *torchvision_names], n=3)
    names = dict.fromkeys(exact + close)
    if not names:
        return f"choose one of {', '.join(MODELS)}, torchvision:NAME, or set model.factory"
    return "did you mean " + " or ".join(n if n in MODELS else TORCHVISION + n for n in names) + "?"
