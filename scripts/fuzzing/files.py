"""Damaged files of weights, scores and training states, and malicious ones."""

import copy
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from fuzzing.case import FAST, MARKER, OLD
from fuzzing.stock import stock
from infprune.artifacts import KEY
from infprune.models import SHIPPED
from infprune.models.seal import SEAL, seal

LIES = (-1, 0, 1, 2**31, 2**40, 2**63, 1.5, "x", None, [], {}, True, float("nan"), "\x1b[31m", "a\nb", "λ" * 300)


class Malicious:
    """Runs a command when it is unpickled by Python's own unpickler."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


class Endless:
    """Asks for a hundred gigabytes when it is unpickled, by a function that torch allows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10**11,)


def checkpoint(rng: Random) -> list[str]:
    """Weights that `model.checkpoint` names."""
    weights = SHIPPED["digits_resnet"].read_bytes()
    if rng.random() < 0.5:
        path = Path("bad.safetensors")
        _place(rng, path, _safetensors(rng, weights))
    else:
        path = Path(rng.choice(["bad.pt", "bad.pth", "bad", "bad.bin"]))
        _place(rng, path, _pickled(rng, load(weights)))
    Path("out.safetensors").write_bytes(OLD)
    command = rng.choice([["evaluate"], ["evaluate"], ["prune", "-o", "out.safetensors", *FAST]])
    return [*command, rng.choice(["-q", "--json"]), f"model.checkpoint={path}"]


def artifact(rng: Random) -> list[str]:
    """A pruned file for the commands that open one."""
    path = Path("bad.safetensors")
    data = stock()["pruned.safetensors"]
    _place(rng, path, _safetensors(rng, data) if rng.random() < 0.4 else _told_wrongly(rng, data))
    Path("out.safetensors").write_bytes(OLD)
    Path("out.pt2").write_bytes(OLD)
    command = rng.choices(
        [["evaluate"], ["finetune", "-o", "out.safetensors"], ["doctor"], ["export", "-o", "out.pt2"]], [6, 3, 1, 0.3]
    )[0]
    more = ["finetune.epochs=0"] if command[0] == "finetune" else []
    trusting = ["-c", "digits"] if rng.random() < 0.3 else []
    return [command[0], str(path), *command[1:], rng.choice(["-q", "--json"]), *more, *trusting, "run.threads=1"]


def scores(rng: Random) -> list[str]:
    """A scores file to prune with."""
    path = Path("bad.safetensors")
    data = stock()["scores.safetensors"]
    _place(rng, path, _safetensors(rng, data) if rng.random() < 0.5 else _told_wrongly(rng, data))
    Path("out.safetensors").write_bytes(OLD)
    scope = rng.choice(["global", "calibrated", "layer"])
    words = ["--scores", str(path), "-o", "out.safetensors", *FAST, f"prune.scope={scope}"]
    return ["prune", rng.choice(["-q", "--json"]), *words]


def flipped_weights(rng: Random) -> list[str]:
    """A file of ours, sound but for a bit of a weight or score: refused by whatever opens it."""
    kind = rng.choice(["pruned", "scores", "model"])
    data = bytearray(stock()[f"{kind}.safetensors"])
    first = 8 + struct.unpack("<Q", data[:8])[0]
    data[rng.randrange(first, len(data))] ^= 1 << rng.randrange(8)
    Path("bad.safetensors").write_bytes(data)
    Path("out.safetensors").write_bytes(OLD)
    commands = {
        "pruned": [["evaluate", "bad.safetensors"], ["finetune", "bad.safetensors", "-o", "out.safetensors"]],
        "scores": [["prune", "--scores", "bad.safetensors", "-o", "out.safetensors", *FAST]],
        "model": [["evaluate", "model.checkpoint=bad.safetensors"]],
    }
    return [*rng.choice(commands[kind]), rng.choice(["-q", "--json"]), "run.threads=1"]


def training_checkpoint(rng: Random) -> list[str]:
    """A state of training to resume from."""
    tuning = rng.random() < 0.5
    name = "finetune" if tuning else "train"
    Path("run").mkdir()
    _place(rng, Path(f"run/{name}.ckpt"), _state(rng, stock()[f"{name}.ckpt"]))
    Path("out.safetensors").write_bytes(OLD)
    Path("p.safetensors").write_bytes(stock()["pruned.safetensors"])
    words = ["--resume", "run.dir=run", "run.threads=1", "-o", "out.safetensors", rng.choice(["-q", "--json"])]
    if tuning:
        return ["finetune", "p.safetensors", "finetune.epochs=1", "finetune.optimizer=adamw", *words]
    return ["train", "train.epochs=1", "train.ema=0.9", *words]


def measurements(rng: Random) -> list[str]:
    """Measurements of a report to go on from."""
    text = stock()["measurements.json"]
    Path("run").mkdir()
    if rng.random() < 0.5:
        content = json.loads(text)
        _lie(rng, content)
        text = json.dumps(content).encode()
    else:
        text = rng.choice([_flipped(rng, text), _cut(rng, text), b"", b"[" * 100_000, b"9" * 5000, b"\xff", b"{}"])
    _place(rng, Path("run/measurements.json"), text)
    words = ["--rates", "0.5", "--criteria", "magnitude", "--seeds", "1", "--resume", "run.dir=run", *FAST]
    return ["report", rng.choice(["-q", "--json"]), *words]


def _place(rng: Random, path: Path, data: bytes) -> None:
    """Mostly the file; sometimes a folder, a device or nothing in its place."""
    place = rng.random()
    if place < 0.01:
        path.mkdir()
    elif place < 0.02:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "nowhere", path.name]))
    elif place > 0.01:
        path.write_bytes(data)


def _flipped(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    top = rng.choice([8, 64, min(len(data), 4096), len(data)])
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(min(top, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.choice([0, 1, 7, 8, 9, len(data) // 2, len(data) - 1, rng.randrange(len(data))])]


def _safetensors(rng: Random, data: bytes) -> bytes:
    how = rng.choice([_flipped, _flipped, _cut, _header, _header, _header, _raw, _tensors, _tensors])
    return how(rng, data)


def _header(rng: Random, data: bytes) -> bytes:
    """A header that lies about the tensors behind it."""
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(names)
        entry = header.get(name)
        if not isinstance(entry, dict):
            entry = {"shape": [1], "dtype": "F32", "data_offsets": [0, 4]}
        how = rng.randrange(7)
        if how == 0:
            entry["shape"] = rng.choice([[2**40, 2**40], [-1], [], [0], [2**62], [10**30], "x", [1.5], [1] * 2000])
        elif how == 1:
            entry["dtype"] = rng.choice(["F64", "I64", "BF16", "F8_E4M3", "BOOL", "U8", "F32", "X", None, 5])
        elif how == 2:
            entry["data_offsets"] = rng.choice([[0, 2**50], [4, 0], [-4, 0], [0], [0, 0], [0, 4], "x", [2**63, 2**64]])
        elif how == 3:
            header[rng.choice(["", "x", "λ", "\x1b[2J", "a" * 5000, "conv1.weight.x"])] = copy.deepcopy(entry)
        elif how == 4:
            header.pop(name, None)
        elif how == 5:
            header["__metadata__"] = rng.choice([5, {}, {"a": 1}, {KEY: "{}"}, {KEY: ""}, None, {KEY: "x" * 10000}])
        else:
            header[name] = rng.choice([5, None, {}, [], "x"])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def _raw(rng: Random, data: bytes) -> bytes:
    """No header, or one that is no JSON, or one of a claimed length that is a lie."""
    size = struct.unpack("<Q", data[:8])[0]
    texts = [
        b"",
        b"{",
        b"[]",
        b"5",
        b"\xff" * 20,
        b"[" * 100_000,
        b'{"a": 1e999}',
        b'{"a":{"dtype":"F32"}}',
        b"\0" * 64,
    ]
    text = rng.choice([*texts, rng.randbytes(100)])
    claim = rng.choice([len(text), 0, 1, 2**20, 2**40, 2**63, 2**64 - 1, size + 1, size - 1])
    return struct.pack("<Q", claim) + rng.choice([text, data[8:]])


def _tensors(rng: Random, data: bytes) -> bytes:
    """A sound file of wrong tensors."""
    wrong = _wrong(rng, load(data))
    size = struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8 : 8 + size]).get("__metadata__")
    if metadata is not None and KEY in metadata:
        metadata[KEY] = _resealed(rng, wrong, json.loads(metadata[KEY]))
    return save(wrong, metadata=metadata)


def _resealed(rng: Random, tensors: dict[str, Tensor], content: dict[str, Any]) -> str:
    """A manifest as one would forge it: sealed anew or without a seal; sometimes as accidents leave it."""
    how = rng.randrange(5)
    if how == 0:
        content.pop(SEAL, None)
    elif how < 4:
        content[SEAL] = seal(tensors, content)
    return json.dumps(content)


def _wrong(rng: Random, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    changed = dict(tensors)
    for _ in range(rng.choice([1, 1, 3])):
        name = rng.choice(list(changed) or ["x"])
        value = changed.get(name, torch.zeros(3)).float()
        how: list[Callable[[], Any]] = [
            lambda v=value: v.double(),
            lambda v=value: v.half(),
            lambda v=value: v.to(torch.bfloat16),
            lambda v=value: v.to(torch.int64),
            lambda v=value: v > 0,
            lambda v=value: torch.full_like(v, float(rng.choice(["nan", "inf", "-inf", "3e38", "0", "1e-45"]))),
            lambda v=value: v.flatten(),
            lambda v=value: v[None],
            lambda: torch.zeros(0),
            lambda: torch.zeros(()),
            lambda v=value: v.to(torch.float8_e4m3fn),
            lambda v=value: torch.complex(v, v),
        ]
        made = rng.choice(how)().clone()
        if rng.random() < 0.2:
            changed.pop(name, None)
        else:
            changed[name if rng.random() < 0.9 else rng.choice(["x", "module.x", "λ", "\x1b[2J"])] = made
    return changed


def _told_wrongly(rng: Random, data: bytes) -> bytes:
    """A sound file whose manifest lies."""
    size = struct.unpack("<Q", data[:8])[0]
    text = json.loads(data[8 : 8 + size])["__metadata__"][KEY]
    if rng.random() < 0.2:
        text = rng.choice(["", "{", "[]", "null", "5", "[" * 100_000, '{"kind": ' + "9" * 5000 + "}", text[:-9], "\0"])
        return save(load(data), metadata={KEY: text})
    content = json.loads(text)
    how = rng.randrange(6)
    if how == 0:
        name = rng.choice(["resnet20", "torchvision:resnet18", "nowhere", "\x1b[31m", "timm:x", "a\nb", "alexnet5"])
        content |= {"name": name}
    elif how == 1:
        factory = rng.choice(["os:system", "antigravity:x", "a\nb:c", "\x1b[31m:x", "posix:system", "builtins:exec"])
        content |= {"name": None, "factory": factory, "args": {"command": f"touch {MARKER}"}}
    elif how == 2:
        content |= {"args": rng.choice([{"num_classes": -1}, {"x": 1}, {"num_classes": 10**12}, {"num_classes": "x"}])}
    else:
        for _ in range(rng.choice([1, 1, 2, 5])):
            _lie(rng, content)
    return save(load(data), metadata={KEY: _resealed(rng, load(data), content)})


def _lie(rng: Random, content: dict[str, Any]) -> None:
    """Change one value somewhere in a JSON document."""
    node: Any = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.85:
            node = node[key]
            continue
        if rng.random() < 0.15 and isinstance(node, dict):
            node[rng.choice(["x", "λ", "\x1b[31m", "a\nb", ""])] = node.pop(key)
        else:
            node[key] = rng.choice(LIES)
        return


def _pickled(rng: Random, tensors: dict[str, Tensor]) -> bytes:  # noqa: PLR0911 - a list of ways
    """A PyTorch file, damaged, malicious, or of something else than weights."""
    buffer = io.BytesIO()
    legacy = rng.random() < 0.3
    torch.save(tensors, buffer, _use_new_zipfile_serialization=not legacy)
    good = buffer.getvalue()
    how = rng.randrange(6)
    if how == 0:
        return _flipped(rng, good)
    if how == 1:
        return _cut(rng, good)
    if how == 2:
        return _repacked(rng, tensors)
    if how == 3:
        bad = rng.choice([Malicious(), Endless()])
        wrapped = rng.choice([bad, {"a": bad}, {"state_dict": bad}, [bad], {bad: 1}, {**tensors, "x": bad}])
        if rng.random() < 0.5:
            return pickle.dumps(wrapped, protocol=rng.randrange(5))
        return _saved(wrapped, legacy=legacy)
    if how == 4:
        return _saved(_wrong(rng, tensors), legacy=legacy)
    odd = [5, "x", None, [], {}, torch.zeros(3), {"state_dict": {}}, {1: torch.zeros(2)}, {"model": {"model": tensors}}]
    odd += [
        _endless_wrapper(),
        {"state_dict": {"a": torch.zeros(1).expand(2**40)}},
        {"module." + k: v for k, v in tensors.items()},
    ]
    return _saved(rng.choice(odd), legacy=legacy)


def _endless_wrapper() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["model"] = found
    return found


def _saved(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _repacked(rng: Random, tensors: dict[str, Tensor]) -> bytes:
    """The same archive compressed, a bomb, or with a member lost, renamed or swapped."""
    if rng.random() < 0.4:
        return _bomb()
    source = zipfile.ZipFile(io.BytesIO(_saved(tensors)))
    out = io.BytesIO()
    lost = rng.choice([*source.namelist()[:4], ""])
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            how = rng.randrange(5) if name == lost else -1
            data = source.read(name)
            if how == 0:
                continue
            target.writestr(name if how != 1 else rng.choice(["../x", "/etc/x", "x"]), data if how != 2 else data[:-3])
    return out.getvalue()


@cache
def _bomb() -> bytes:
    """Half a gigabyte in two thousandths of that."""
    source = zipfile.ZipFile(io.BytesIO(_saved({"x": torch.zeros(2**29, dtype=torch.uint8)})))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return out.getvalue()


def _state(rng: Random, data: bytes) -> bytes:
    """A state of training, damaged or with one value changed."""
    if rng.random() < 0.4:
        return rng.choice([_flipped, _cut])(rng, data)
    content = torch.load(io.BytesIO(data), weights_only=True)
    if rng.random() < 0.15:
        content[rng.choice(list(content))] = rng.choice([Malicious(), Endless()])
        return rng.choice([_saved, pickle.dumps])(content)
    for _ in range(rng.choice([1, 1, 3])):
        _lie(rng, content)
    return _saved(content)
