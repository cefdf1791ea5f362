"""What every section of the configuration is made of."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


def said(words: tuple[str, ...], values: Mapping[Any, Any]) -> list[str]:
    """List the words that have a value."""
    return [word for word in words if values.get(word) is not None]


def choice(words: tuple[str, ...], said: list[str]) -> str:
    """Say that exactly one of the words is wanted."""
    return f"expected one of {', '.join(words)}, got {' and '.join(said) or 'none'}"


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what JSON would change or not hold: arguments are written into artifacts."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise ValueError("not storable as JSON")
    return value


Arguments = Annotated[dict[str, Any], AfterValidator(_storable)]


class Section(BaseModel):
    """A frozen mapping without unknown keys; of the keys in ``one_of`` exactly one has a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    one_of: ClassVar[tuple[str, ...]] = ()  # the first of them carries the default

    @model_validator(mode="before")
    @classmethod
    def _choose(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not cls.one_of:
            return data
        given = said(cls.one_of, data)
        if len(given) > 1 or (not given and cls.one_of[0] in data):
            raise ValueError(choice(cls.one_of, given))
        return {**data, cls.one_of[0]: None} if given and given[0] != cls.one_of[0] else data
