"""Bad configurations and bad words on the command line."""

from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzzing.case import FAST, OLD
from infprune.config import shipped
from infprune.config.schema import SECTIONS

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
VALUES = (
    *("null", "true", "no", "''", "x", "0", "-1", "1", "0.5", "-0.5", "1.0", "2", "1e-3", ".nan", ".inf", "-.inf"),
    *("1e309", "10000000000000000000000", "-9223372036854775809", "4294967296", "2147483648", "0x" + "f" * 5000),
    *("9" * 5000, "1:" * 3000 + "1", "[]", "{}", "[[]]", "[1, 2]", "{a: 1}", "{1: 2}", "{shape: [3]}", "!!binary aGk="),
    *("!!python/object/apply:os.system ['touch executed']", "!!set {a, b}", "2026-01-31", "'λ\u202e'", '"\\e[31mred"'),
    *('"\\0"', "[" * 400 + "]" * 400, "&a [*a]", "&a {b: *a}", "*nowhere", "[{shape: [3, 8, 8]}]", "'x' * 3", "|\n a"),
    *("../../etc/passwd", "/dev/zero", "/dev/null", "/", "os:system", "antigravity:x", "a.b:c", "torchvision:resnet18"),
    *("torchvision:", "timm:x", "digits_resnet", "resnet20", "logistic_regression", "mnist", "cifar10", "libsvm"),
    *("breast_cancer", "image_folder", "{num_classes: 4}", "{num_classes: -1}", "{num_classes: 1.5}", "{width: 0}"),
    *("{num_classes: 1000000000000}", "{in_features: 64}", "['*']", "['[']", "{'*': 0.5}", "{'conv1': 2}"),
    *("random", "shipped", "influence", "theorem1", "bn-scale", "calibrated", "layer", "adamw", "bf16", "cuda:99"),
)
COMMANDS = {
    "evaluate": [],
    "prune": ["-o", "out.safetensors", *FAST],
    "score": ["-o", "out.safetensors", *FAST],
    "train": ["-o", "out.safetensors", "train.epochs=0", "run.threads=1"],
    "doctor": ["run.threads=1"],
    "export": ["-o", "out.pt2", "run.threads=1"],
    "report": ["--rates", "0.5", "--criteria", "magnitude", "--seeds", "1", *FAST],
    "layers": ["run.threads=1", "data.calibration=64"],
    "features": ["run.threads=1", "data.calibration=64"],
    "validate": ["run.threads=1", "data.calibration=64", "retrain.groups=1", "retrain.sizes=[0.5]"],
}
WEIGHTS = (12, 6, 3, 2, 1, 0.3, 0.5, 1, 1, 1)


def settings(rng: Random) -> list[str]:
    """A damaged configuration file for one of the commands."""
    path = Path(rng.choice(["bad.yaml", "bad.yaml", "bad.yaml", "infprune.yaml", "λ \u2028.yaml"]))
    place = rng.random()
    if place < 0.02:
        path.mkdir()
    elif place < 0.04:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "nowhere", path.name]))
    else:
        path.write_bytes(_damaged(rng))
    return [*_command(rng), *([] if path.name == "infprune.yaml" else ["-c", str(path)])]


def words(rng: Random) -> list[str]:
    """Bad options and overrides."""
    found = _command(rng)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        found.insert(rng.randint(1, len(found)) if rng.random() < 0.1 else len(found), _word(rng))
    return found


def _command(rng: Random) -> list[str]:
    name = rng.choices(list(COMMANDS), WEIGHTS)[0]
    given = COMMANDS[name]
    if "-o" in given:
        Path(given[given.index("-o") + 1]).write_bytes(OLD)
    return [name, rng.choice(["-q", "--json"]), *given]


def _word(rng: Random) -> str:
    section = rng.choice(list(SECTIONS))
    field = rng.choice(list(SECTIONS[section].model_fields))
    value = rng.choice(VALUES)
    key = rng.choice([f"{section}.{field}"] * 8 + [section, field, f"{section}.{field}.x", "", ".", f"{section}.", "λ"])
    options = ["--rate", "--scores", "--seed", "--threads", "--device", "-c", "-o", "--rates", "--criteria", "--batch"]
    return rng.choice(
        [f"{key}={value}"] * 12
        + [
            value,
            key,
            "=",
            "",
            "-",
            "--",
            f"--{field}",
            "nowhere.safetensors",
            "\udcff.safetensors",
            "λ=\udcff",
            "a\nb",
        ]
        + [f"run.dir={value}", f"run.output={value}", f"data.root={value}", f"model.checkpoint={value}"]
        + [f"{option}={value}" for option in options]
    )


def _damaged(rng: Random) -> bytes:
    text = rng.choice(list(shipped().values())).read_text(encoding="utf-8")
    how = rng.choice([_values, _values, _values, _keys, _lines, _bytes, _bytes, _odd])
    return how(rng, text)


def _values(rng: Random, text: str) -> bytes:
    """One to three values replaced."""
    document: dict[str, Any] = yaml.safe_load(text)
    lines = []
    for _ in range(rng.randint(1, 3)):
        section = rng.choice(list(SECTIONS))
        field = rng.choice(list(SECTIONS[section].model_fields))
        document.get(section, {}).pop(field, None)
        lines.append((section, field, rng.choice(VALUES)))
    for section, field, _ in lines:
        document.setdefault(section, {})[field] = f"@{section}.{field}@"
    made = yaml.dump(document, sort_keys=False)
    for section, field, value in lines:
        made = made.replace(f"'@{section}.{field}@'", value)
    return made.encode("utf-8", "surrogateescape")


def _keys(rng: Random, text: str) -> bytes:
    """A key misspelt, repeated or put where it does not belong."""
    key = rng.choice(["modle", "run", "prune.rate", "λ", "1", "null", "?", "model", "''", "x" * 2000, "[a]", "{a: b}"])
    value = rng.choice(VALUES)
    return (text + f"\n{key}: {value}\n").encode("utf-8", "surrogateescape")


def _lines(rng: Random, text: str) -> bytes:
    """Lines lost, doubled, swapped or indented."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.randint(1, 4)):
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        how = rng.randrange(4)
        if how == 0 and len(lines) > 1:
            del lines[at]
        elif how == 1:
            lines.insert(to, lines[at])
        elif how == 2:
            lines[at], lines[to] = lines[to], lines[at]
        else:
            lines[at] = " " * rng.randint(1, 5) + lines[at]
    return "".join(lines).encode()


def _bytes(rng: Random, text: str) -> bytes:
    """Bytes replaced, inserted or cut off."""
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data))
        how = rng.randrange(4)
        if how == 0:
            data[at] = rng.randrange(256)
        elif how == 1:
            data[at:at] = rng.choice([b":", b"- ", b"{", b"]", b"&a ", b"*a", b"\t", b"'", b'"', b"%", b"\xff", b"\0"])
        elif how == 2:
            del data[at : at + rng.randint(1, 30)]
        else:
            data[at:at] = data[at : at + rng.randint(1, 60)]
        data = data or bytearray(b"x")
    return bytes(data)


def _odd(rng: Random, text: str) -> bytes:
    """Files that are no configuration at all, or a trap."""
    deep = rng.choice([300, 3000, 100_000])
    return rng.choice(
        [
            b"",
            b"\n",
            b"null",
            b"5",
            b"[model]",
            b"\xff\xfe" + text.encode("utf-16-le"),
            b"\xef\xbb\xbf" + text.encode(),
            rng.randbytes(2000),
            b"PK\x03\x04" + rng.randbytes(200),
            b"[" * deep,
            b"{a: " * deep,
            b"- " * deep,
            b"model: {args: " + b"[" * deep + b"]" * deep + b"}",
            BOMB.encode(),
            b"model: {args: {x: &a {y: *a}}}",
            ("model:\n  args:\n" + "".join(f"    {line}\n" for line in BOMB.splitlines())).encode(),
            ("layers:\n  groups:\n" + "".join(f"    {line}\n" for line in BOMB.splitlines())).encode(),
            _merges().encode(),
            text.encode() * 2,
            b"--- {}\n--- {}\n",
            b"model: &m {name: digits_resnet}\ndata: *m\n",
            b"x" * 3_000_000,
            b"%YAML 9.9\n---\n{}\n",
        ]
    )


def _merges() -> str:
    lines = ["model:", "  args:", "    a: &a {" + ", ".join(f"k{i}: 1" for i in range(9)) + "}"]
    for a, b in zip("abcdefg", "bcdefgh", strict=True):
        lines.append(f"    {b}: &{b} {{<<: [{', '.join(['*' + a] * 9)}]}}")
    return "\n".join(lines) + "\n"
