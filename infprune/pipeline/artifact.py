"""Open a file that infprune wrote, with the configuration it carries."""

from collections.abc import Sequence
from pathlib import Path

from infprune import config
from infprune.artifacts import Loaded, Manifest, load, read_manifest
from infprune.errors import ConfigError
from infprune.pipeline.session import Session, check_logits


def settings_for(path: Path, source: str | None, overrides: Sequence[str]) -> config.Config:
    """The configuration to work on a file with: the named one, else the one inside the file; its network is the file's.

    Raises:
        ConfigError: the file names a factory that the command line does not repeat: it would import code.
    """
    manifest = read_manifest(path)
    network = {"name": manifest.name, "factory": manifest.factory, "args": manifest.args}
    if source is not None:
        content = config.load(source, overrides).model_dump()
        content["model"].update(network)
        return config.Config.model_validate(content)
    for section in ("model", "data"):
        factory = manifest.config.get(section, {}).get("factory")
        if factory and not any(o.replace(" ", "").startswith(f"{section}.factory=") for o in overrides):
            raise ConfigError(f"{path} names {factory}; if you trust it, repeat it: {section}.factory={factory}")
    return config.assemble(str(path), _without_nulls(manifest), overrides)


def open_artifact(path: Path, session: Session) -> Loaded:
    """Rebuild the network on the session's device and check that it fits the data."""
    loaded = load(path, factory=session.config.model.factory, device=session.device)
    check_logits(loaded.module, session)
    return loaded


def _without_nulls(manifest: Manifest) -> dict[str, dict[str, object]]:
    """A dumped configuration spells out every choice; the words that are null were not chosen."""
    return {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in manifest.config.items()
    }
