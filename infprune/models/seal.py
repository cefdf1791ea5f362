"""The checksum in the manifest of a safetensors file: it tells of damage, which the format itself does not."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from infprune.errors import InputError
from infprune.imports import one_line

KEY = "infprune"  # of the manifest, in the header's metadata
SEAL = "sha256"  # of the checksum, in the manifest; another way to take it needs another name


def seal(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a file's tensors (names, shapes, dtypes, bytes) and of its manifest but for the seal.

    The manifest counts as JSON with sorted keys, so that neither their order nor white space matters.
    """
    told = {key: value for key, value in manifest.items() if key != SEAL}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def parsed(text: str, source: object) -> dict[str, Any]:
    """Parse a manifest.

    Raises:
        InputError: it is no JSON object; the message calls the file `source`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of thousands of digits
        raise InputError(f"{source}: its manifest is not JSON ({one_line(error)}); write it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: its manifest is not JSON (no object); write it again")
    return content


def check(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any], source: object) -> None:
    """Hold a file against its seal; one from before there were seals has none.

    Raises:
        InputError: they differ; the message calls the file `source`.
    """
    claimed = manifest.get(SEAL)
    if claimed is not None and claimed != seal(tensors, manifest):
        raise InputError(f"{source}: damaged or changed since it was written (its SHA-256 differs); fetch it again")
