"""Open a file that infprune wrote, with the configuration it carries."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infprune import config
from infprune.artifacts import Loaded, Manifest, load, read_manifest
from infprune.errors import ConfigError, InputError
from infprune.pipeline.session import Session, check_logits


def settings_for(
    path: Path | None, source: str | None, overrides: Sequence[str], *, data: bool = True
) -> config.Config:
    """The configuration to work on a file with: the named one, else the one inside the file; its network is the file's.

    Without a file, the configuration that every other command would take.

    A factory is never taken from the file: a file must not decide what this process imports or where it writes.
    `data`: whether the work needs data.

    Raises:
        ConfigError: the file needs a factory that the command line or the named configuration does not give.
        InputError: the configuration inside the file is damaged.
    """
    if path is None:
        return config.load(source, overrides)
    manifest = read_manifest(path)
    settings = config.load(source, overrides) if source is not None else _stored(path, manifest, overrides, data=data)
    if manifest.factory is not None and settings.model.factory != manifest.factory:
        raise ConfigError(_untrusted(path, "model", manifest.factory))
    content = settings.model_dump()
    content["model"] |= {"name": manifest.name, "factory": manifest.factory, "args": manifest.args}
    return config.Config.model_validate(content)


def require_budget(source: str | None, overrides: Sequence[str], method: str) -> None:
    """Refuse to prune a file on by the budget that made it, or by a default.

    Raises:
        ConfigError: neither an override nor the named configuration gives a budget.
    """
    kinds = set(config.PruneConfig.one_of)
    told = config.given(overrides, "prune") & kinds
    if not told and (source is None or not config.load(source, overrides).prune.model_fields_set & kinds):
        raise ConfigError(
            f"--method {method} cuts further while fine-tuning: say how far, e.g. --rate 0.3 (of the channels left)"
        )


def open_artifact(path: Path, session: Session) -> Loaded:
    """Rebuild the network on the session's device and check that it fits the data."""
    loaded = load(path, factory=session.config.model.factory, device=session.device)
    check_logits(loaded.module, session)
    return loaded


def _stored(path: Path, manifest: Manifest, overrides: Sequence[str], *, data: bool) -> config.Config:
    """The configuration inside a file, under the overrides.

    Without factories, places to write and downloads, and without how the file was made: its method, its scores and the
    layers that lost a share of their own are not what it is to be worked on with.
    """
    content = _without_nulls(manifest)
    content.pop("model", None)
    factory = content.get("data", {}).pop("factory", None)
    content.get("data", {}).pop("download", None)
    for section, key in (("finetune", "method"), ("score", "file"), ("prune", "per_layer")):
        content.get(section, {}).pop(key, None)
    content["run"] = {key: value for key, value in content.get("run", {}).items() if key in ("seed", "precision")}
    try:
        config.assemble(str(path), copy.deepcopy(content), ())
    except ConfigError as error:
        raise InputError(f"the configuration inside a file is damaged: {error}; give one with -c") from error
    settings = config.assemble(str(path), content, overrides)
    if data and factory is not None and not config.given(overrides, "data") & {"factory", "name"}:
        raise ConfigError(_untrusted(path, "data", factory))
    return settings


def _untrusted(path: Path, section: str, factory: str) -> str:
    return f"{path} names {factory}, which would be imported; if you trust it, repeat it: {section}.factory={factory}"


def _without_nulls(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """A dumped configuration spells out every choice; the words that are null were not chosen."""
    return {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in manifest.config.items()
    }
