"""Results as one JSON object."""

import json
from dataclasses import asdict
from typing import Any


def to_json(result: Any) -> str:
    """Write a result dataclass as JSON; its keys are its fields, numbers are full precision, null is not run."""
    return json.dumps(asdict(result), indent=2, allow_nan=False)
