"""YAML file + ``key=value`` overrides -> one typed, frozen ``Config``; every fault told at once."""

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from infprune.errors import ConfigError

Criterion = Literal["influence", "theorem1", "gate", "inf-cp", "taylor", "magnitude", "bn-scale", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)

_FACTORY = r"^[\w.]+:[\w.]+$"
_FACTORY_TEXT: dict[str, Any] = {"expected": "pkg.module:function"}
_BUDGET_TEXT: dict[str, Any] = {"expected": "a share in (0, 1] or a number > 1"}
_MAX_SEED = 2**32 - 1  # numpy's generators take no more


def _said(words: tuple[str, ...], values: Mapping[Any, Any]) -> list[str]:
    return [word for word in words if values.get(word) is not None]


def _choice(words: tuple[str, ...], said: list[str]) -> str:
    return f"expected one of {', '.join(words)}, got {' and '.join(said) or 'none'}"


class _Section(BaseModel):
    """A frozen mapping without unknown keys; of the keys in ``one_of`` exactly one has a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    one_of: ClassVar[tuple[str, ...]] = ()  # the first of them carries the default

    @model_validator(mode="before")
    @classmethod
    def _choose(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not cls.one_of:
            return data
        said = _said(cls.one_of, data)
        if len(said) > 1 or (not said and cls.one_of[0] in data):
            raise ValueError(_choice(cls.one_of, said))
        return {**data, cls.one_of[0]: None} if said and said[0] != cls.one_of[0] else data


class ModelConfig(_Section):
    """The network and its weights."""

    one_of: ClassVar[tuple[str, ...]] = ("name", "factory")

    name: str | None = Field(
        default="digits_resnet", min_length=1, description="A built-in network (`infprune features`)."
    )
    factory: str | None = Field(
        default=None,
        pattern=_FACTORY,
        description="Your own network, `pkg.module:function`; replaces `name`.",
        json_schema_extra=_FACTORY_TEXT,
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the network's factory.")
    checkpoint: str = Field(
        default="shipped",
        min_length=1,
        description="`shipped` (the weights in the package), `random` (the initial weights) or a path.",
    )


class DataConfig(_Section):
    """The samples that train, score and judge."""

    one_of: ClassVar[tuple[str, ...]] = ("name", "factory")

    name: str | None = Field(default="digits", min_length=1, description="A built-in dataset (`infprune features`).")
    factory: str | None = Field(
        default=None,
        pattern=_FACTORY,
        description="Your own dataset, `pkg.module:function`; replaces `name`.",
        json_schema_extra=_FACTORY_TEXT,
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the dataset's factory.")
    root: str | None = Field(default=None, min_length=1, description="The folder that holds the files.")
    download: bool = Field(default=False, description="Fetch missing files.")
    batch_size: int = Field(default=128, gt=0, description="Samples per batch.")
    calibration: int = Field(default=2048, gt=0, description="Training samples used to score and to compensate.")
    validation: float = Field(default=0.1, gt=0, lt=1, description="Share of the training samples kept for validation.")
    seed: int = Field(
        default=0, ge=0, le=_MAX_SEED, description="Seed of the split into training and validation samples."
    )
    augment: Literal["none", "crop-flip"] = Field(default="none", description="Random changes to the training images.")


class ScoreConfig(_Section):
    """How the channels are ranked."""

    criterion: Criterion = Field(default="influence", description="What a channel is worth.")
    damping: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Added to the curvature's diagonal (absolute), or `auto`.",
        json_schema_extra={"expected": "a number >= 0 or auto"},
    )
    samples_per_input: int = Field(
        default=1, gt=0, description="Labels drawn from the model per input, for the Fisher."
    )


class PruneConfig(_Section):
    """How much is cut, where, and what is done for the rest. One budget: rate, macs or params."""

    one_of: ClassVar[tuple[str, ...]] = ("rate", "macs", "params")

    rate: float | None = Field(default=0.5, ge=0, lt=1, description="Budget: share of the prunable channels removed.")
    macs: float | None = Field(
        default=None,
        gt=0,
        description="Budget: multiply-accumulates kept, a share up to 1 or a number; replaces `rate`.",
        json_schema_extra=_BUDGET_TEXT,
    )
    params: float | None = Field(
        default=None,
        gt=0,
        description="Budget: parameters kept, a share up to 1 or a number; replaces `rate`.",
        json_schema_extra=_BUDGET_TEXT,
    )
    scope: Literal["global", "layer"] = Field(
        default="global", description="One ranking of all channels, or one per layer."
    )
    floor: float = Field(
        default=0.2, ge=0, le=1, description="A layer keeps max(1, ceil(floor * rate * channels)) channels."
    )
    round_to: int = Field(default=1, ge=1, description="Layer widths are multiples of this number.")
    protect: list[str] = Field(default_factory=list, description="Modules never cut: patterns over module names.")
    compensate: Literal["none", "ls", "ls+bn"] = Field(
        default="ls+bn", description="Least squares on the consumers, then batch-norm statistics."
    )
    ls_damping: float = Field(default=1e-4, ge=0, description="Ridge of the least squares.")


class TrainConfig(_Section):
    """The training loop."""

    epochs: int = Field(default=20, ge=0, description="Passes over the training samples.")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="The optimizer.")
    lr: float = Field(default=0.1, gt=0, description="The highest learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Weight decay.")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="The learning rate over time.")
    warmup_epochs: float = Field(default=0.0, ge=0, description="Epochs of linear warm-up.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Weight of the uniform label.")
    ema: float | None = Field(default=None, gt=0, lt=1, description="Decay of the weights' moving average; null: none.")
    batch_size: int | None = Field(default=None, gt=0, description="Samples per step; null: `data.batch_size`.")
    clip_norm: float | None = Field(default=None, gt=0, description="Largest gradient norm; null: no clipping.")


class FinetuneConfig(TrainConfig):
    """The training loop after the cut; a subclass only because its defaults differ."""

    epochs: int = Field(default=2, ge=0, description="Passes over the training samples.")
    lr: float = Field(default=0.01, gt=0, description="The highest learning rate.")


class RunConfig(_Section):
    """Where and how the command runs."""

    dir: str | None = Field(default=None, min_length=1, description="Output folder; null: `runs/<model>-<command>`.")
    seed: int = Field(default=0, ge=0, le=_MAX_SEED, description="Seed of everything random but the data split.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?|mps)$",
        description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`.",
        json_schema_extra={"expected": "one of auto, cpu, cuda, cuda:N, mps"},
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="Number format of forward and backward."
    )
    threads: int | None = Field(default=None, gt=0, description="CPU threads; null: torch's choice.")


class Config(_Section):
    """Everything a command needs to know."""

    model: ModelConfig = Field(default=ModelConfig(), description="The network and its weights.")
    data: DataConfig = Field(default=DataConfig(), description="The samples that train, score and judge.")
    score: ScoreConfig = Field(default=ScoreConfig(), description="How the channels are ranked.")
    prune: PruneConfig = Field(
        default=PruneConfig(), description="How much is cut, where, and what is done for the rest."
    )
    train: TrainConfig = Field(default=TrainConfig(), description="Training from the start.")
    finetune: FinetuneConfig = Field(default=FinetuneConfig(), description="Training after the cut.")
    run: RunConfig = Field(default=RunConfig(), description="Where and how the command runs.")


_SECTIONS: dict[str, type[_Section]] = {name: type(field.default) for name, field in Config.model_fields.items()}


def load(source: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        source: a path or the name of a shipped config; None: ``./infprune.yaml``, else the shipped ``digits``.
        overrides: ``section.key=value`` with YAML values, applied after the file.

    Raises:
        ConfigError: the file is missing or not YAML, or the values have faults (all of them in one message).
    """
    label, path = _locate(source)
    text = _read(label, path)
    try:
        content, faults = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{label}: {_syntax(error, text)}") from None
    if not isinstance(content, dict | None):
        faults.append(f"expected a mapping of sections ({', '.join(_SECTIONS)}), got {_got(content)}")
        content = None
    document: dict[Any, Any] = {}
    faults += _apply(document, (((key,), value) for key, value in (content or {}).items()))
    second = _assignments(overrides, faults)
    faults += _apply(document, second)
    faults += _settle(document)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        faults += _explain(error, document)
    if faults:
        raise ConfigError(_report(label, faults))
    return config


def dump(config: Config) -> str:
    """Write a configuration as YAML in the order of its fields; ``load`` of the text gives an equal one."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def shipped() -> dict[str, Path]:
    """Return name -> path of the configs that come with the package (installed wheel first, then a checkout)."""
    here = Path(__file__).parent
    folder = next((f for f in (here / "configs", here.parent / "configs") if f.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


# --- finding and reading the file ------------------------------------------------------------------------------------


def _locate(source: str | None) -> tuple[str, Path]:
    local = Path("infprune.yaml")
    if source is None and local.exists():
        return str(local), local
    label = "digits" if source is None else source
    return label, shipped().get(label, Path(label))


def _read(label: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(_missing(label)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ConfigError(f"{label}: line {line}: expected UTF-8 text, got byte 0x{byte:02x}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{label}: cannot read: {reason}; give a readable YAML file") from None


def _missing(label: str) -> str:
    names = list(shipped())
    close = get_close_matches(Path(label).stem, names, 1, 0.4)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{label}: no such file or shipped config{hint} (shipped: {', '.join(names) or 'none'})"


class _Loader(yaml.SafeLoader):
    """SafeLoader in which 1e-3 is a number (YAML 1.2) and 2026-01-31 is text."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what ``_Loader`` would read as a number."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML folds these line breaks as if they were a newline, and reads back a space.
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _parse(text: str) -> tuple[Any, list[str]]:
    """Return the value of a YAML text and its repeated keys; raises only ``yaml.YAMLError``."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, []
        return loader.construct_document(node), list(_repeats(node, (), set()))
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError):  # PyYAML's constructors on `!!int x`, `!!bool x`
        raise yaml.YAMLError("a value does not fit its type") from None


def _repeats(node: yaml.Node, path: tuple[str, ...], seen: set[int]) -> Iterator[str]:
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for item in node.value:
        key, value = item if isinstance(item, tuple) else (None, item)
        here = path
        if isinstance(key, yaml.ScalarNode):
            here = (*path, key.value)
            line = key.start_mark.line + 1
            if key.value in lines:
                yield f"{'.'.join(here)}: given twice, on lines {lines[key.value]} and {line}"
            lines[key.value] = line
        yield from _repeats(value, here, seen)


def _syntax(error: yaml.YAMLError, text: str) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"line {line}, column {column}: character U+{ord(text[error.position]):04X} is not allowed"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return str(error)
    said = [part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    return f"line {mark.line + 1}, column {mark.column + 1}: {', '.join(said)}"


# --- layers: the file, then the overrides ----------------------------------------------------------------------------

_Assignment = tuple[tuple[Any, ...], Any]


def _assignments(overrides: Sequence[str], faults: list[str]) -> list[_Assignment]:
    found: list[_Assignment] = []
    for override in overrides:
        key, sign, text = override.partition("=")
        keys = tuple(key.strip().split("."))
        if not sign or not all(keys):
            faults.append(f"{override}: expected key=value, for example prune.rate=0.3")
            continue
        try:
            value, repeats = _parse(text)
        except yaml.YAMLError:
            faults.append(f"{key}: expected a YAML value, got {_got(text)}")
            continue
        faults += [f"{key}.{repeat}" for repeat in repeats]
        found.append((keys, value))
    return found


def _apply(document: dict[Any, Any], layer: Iterable[_Assignment]) -> list[str]:
    """Write a layer into the document; the word of a choice given here replaces the words of earlier layers."""
    given: dict[Any, dict[Any, Any]] = {}
    for keys, value in layer:
        leaves = [(keys, value)]
        if len(keys) == 1 and isinstance(value, dict):  # a section's keys are merged, a field's value is replaced
            document.setdefault(keys[0], {})
            leaves = [((*keys, key), leaf) for key, leaf in value.items()]
        for path, leaf in leaves:
            _set(document, path, leaf)
            if len(path) == 2:
                given.setdefault(path[0], {})[path[1]] = leaf
    faults = []
    for name, section in _SECTIONS.items():
        said = _said(section.one_of, given.get(name, {}))
        if len(said) > 1:
            faults.append(f"{name}: {_choice(section.one_of, said)}")
        if said and isinstance(document[name], dict):
            for word in set(section.one_of) - {said[-1]}:
                document[name].pop(word, None)
    return faults


def _set(document: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    node = document
    for depth, key in enumerate(path[:-1]):
        child = node.get(key)
        if depth == 0 and not isinstance(child, dict | None):
            return  # `prune: 5` in the file stays, to be told as a fault
        node[key] = dict(child) if isinstance(child, dict) else {}  # a copy: YAML aliases share their mappings
        node = node[key]
    node[path[-1]] = value


def _settle(document: dict[Any, Any]) -> list[str]:
    """Read an empty section as its defaults, and find the choices whose every word is null."""
    faults = []
    for name, section in _SECTIONS.items():
        if document.get(name, ...) is None:
            document[name] = {}
        values = document.get(name)
        if section.one_of and isinstance(values, dict) and section.one_of[0] in values:
            said = _said(section.one_of, values)
            if not said:
                faults.append(f"{name}: {_choice(section.one_of, said)}")
                del values[section.one_of[0]]
    return faults


# --- faults ----------------------------------------------------------------------------------------------------------

_NOUNS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "non-empty text",
    dict: "a mapping with text keys",
    list: "a list of texts",
}


def _report(label: str, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{label}: {faults[0]}"
    return "\n  ".join([f"{label}: {len(faults)} faults", *faults])


def _explain(error: ValidationError, document: dict[Any, Any]) -> list[str]:
    """Tell pydantic's errors in the words of the fields, one per key."""
    told: dict[tuple[Any, ...], str] = {}
    for item in error.errors(include_url=False, include_context=False):
        path = item["loc"][:2]
        if item["type"] in {"extra_forbidden", "invalid_key"} and len(item["loc"]) <= 2:
            told[path] = _unknown(tuple(str(key) for key in path))
        elif len(path) == 1:
            told[path] = f"expected a mapping, got {_got(document[path[0]])}"
        else:
            field = _SECTIONS[str(path[0])].model_fields[str(path[1])]
            told[path] = f"expected {_expected(field)}, got {_got(document[path[0]][path[1]])}"
    return [f"{'.'.join(str(key) for key in path)}: {text}" for path, text in told.items()]


def _unknown(path: tuple[str, ...]) -> str:
    *section, word = path
    here = list(_SECTIONS[section[0]].model_fields if section else _SECTIONS)
    leaves = {field for model in _SECTIONS.values() for field in model.model_fields}
    near = [".".join([*section, name]) for name in get_close_matches(word, here, 1)]
    far = get_close_matches(word, leaves, 1)
    guess = near or [f"{name}.{far[0]}" for name, model in _SECTIONS.items() if far and far[0] in model.model_fields]
    return f"unknown key; did you mean {' or '.join(guess)}?" if guess else f"unknown key; known: {', '.join(here)}"


def _expected(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "expected" in extra:
        return str(extra["expected"])
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(kinds)}"
    kind = kinds[0] if NoneType in get_args(field.annotation) else field.annotation
    noun = _NOUNS[get_origin(kind) or kind]
    return noun if noun == _NOUNS[str] else noun + _interval(field)


def _interval(field: FieldInfo) -> str:
    bounds = {word: getattr(m, word) for m in field.metadata for word in ("gt", "ge", "lt", "le") if hasattr(m, word)}
    left = {"gt": "(", "ge": "["}
    right = {"lt": ")", "le": "]"}
    lower = next((word for word in left if word in bounds), None)
    upper = next((word for word in right if word in bounds), None)
    if lower and upper:
        return f" in {left[lower]}{bounds[lower]}, {bounds[upper]}{right[upper]}"
    return f" {'>' if lower == 'gt' else '>='} {bounds[lower]}" if lower else ""


def _got(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else reprlib.repr(value)
