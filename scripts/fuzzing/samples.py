"""Damaged data: images, LIBSVM lines, MNIST files, datasets of a user's own."""

import gzip
import io
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image

NETWORK = "fuzzing.tiny:network"
DATASET = "fuzzing.tiny:dataset"
FOLDERS = [f"data/{part}/{label}" for part in ("train", "test") for label in ("a", "b")]


def images(rng: Random) -> list[str]:
    """A folder of images of which one to three are not what they should be."""
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True)
        for i in range(2):
            Path(f"{folder}/{i}.png").write_bytes(_image("PNG"))
    for _ in range(rng.choice([1, 1, 1, 3])):
        name = rng.choice(["0.png", "1.png", "2.jpg", "3.gif", "4.tiff", "λ\u2028.bmp", "5.webp", "6.PNG", "7.txt"])
        path = Path(f"{rng.choice(FOLDERS)}/{name}")
        if path.is_file() and rng.random() < 0.1:
            path.unlink()
        elif not path.exists() and rng.random() < 0.05:
            path.mkdir()
        elif not path.exists() and rng.random() < 0.05:
            path.symlink_to(rng.choice(["nowhere", "/dev/zero", path.name]))
        elif not path.is_dir():
            path.write_bytes(_bad_image(rng))
    if rng.random() < 0.1:
        Path("data/train/c").mkdir()
    size = rng.choice(["8"] * 12 + ["null"] * 6 + ["1", "0", "-1", "1000000", "1.5", "x", "true", "[8, 8]"])
    args = f"{{size: {size}, cache: {rng.choice(['true', 'false'])}}}"
    return _on("image_folder", args, "{channels: 3}")


@cache
def _image(kind: str, mode: str = "RGB", size: tuple[int, int] = (8, 8), frames: int = 1) -> bytes:
    made = [Image.new(mode, size, i) for i in range(frames)]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": made[1:]} if frames > 1 else {}
    made[0].save(buffer, kind, **more)
    return buffer.getvalue()


def _bad_image(rng: Random) -> bytes:  # noqa: PLR0911 - a list of ways
    good = _image(rng.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    how = rng.randrange(8)
    if how == 0:
        return good[: rng.randrange(len(good))]
    if how == 1:
        data = bytearray(good)
        for _ in range(rng.choice([1, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if how == 2:
        return rng.choice([b"", b"\0", b"<svg/>", rng.randbytes(200), b"GIF89a", b"\x89PNG\r\n\x1a\n", b"II*\0"])
    if how == 3:
        return _png(rng.choice([2**31 - 1, 60_000, 20_000, 0]), rng.choice([2**31 - 1, 60_000, 20_000, 0]))
    if how == 4:
        mode, kind = rng.choice([("I;16", "PNG"), ("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG")])
        return _image(kind, mode)
    if how == 5:
        return _image(rng.choice(["GIF", "PNG", "WEBP", "TIFF"]), frames=3)
    if how == 6:
        return _image("PNG", size=rng.choice([(1, 1), (9, 8), (1, 300), (16, 16)]))
    return _image("TIFF", rng.choice(["F", "I", "RGBA", "CMYK", "LAB"]))


def _png(width: int, height: int) -> bytes:
    """A PNG of a claimed size, and almost no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10**6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def libsvm(rng: Random) -> list[str]:
    """Lines that are not, or not quite, in the LIBSVM format."""
    lines = [f"{1 if i % 2 else -1} 1:{i} 3:0.5" for i in range(20)]
    odd = ["", "#", "x", "1", "1 1", "1 1:", "1 1:x", "1 0:1", "1 -1:1", "1 2:1 1:1", "1 1:1 1:2", "nan 1:1", "inf 1:1"]
    odd += ["1 1:nan", "1 1:inf", "1 1:1e39", "1 99999999:1", "1 99999999999999999999:1", "1,2 1:1", "1 qid:3 1:1"]
    odd += ["1.5 1:1", "\0", "λ", "1 1:1 # x", "1\t1:1", "1 1:1\r", "1e400 1:1", "1 " + "1:1 " * 3, "-1 2147483648:1"]
    for _ in range(rng.choice([1, 1, 2])):
        lines.insert(rng.randrange(len(lines)), rng.choice(odd))
    data = "\n".join(lines).encode()
    if rng.random() < 0.2:
        data = rng.choice([b"", b"\n", rng.randbytes(500), gzip.compress(data), data[: rng.randrange(40)], b"1 1:1\n"])
    Path("data").mkdir()
    good = "\n".join(f"{1 if i % 2 else -1} 1:{i} 3:0.5" for i in range(8)).encode()
    train, test = (data, good) if rng.random() < 0.7 else (good, data)
    names = rng.choice([("train", "test")] * 9 + [("train.gz", "test.bz2")])
    for name, content in zip(names, (train, test), strict=True):
        Path(f"data/{name}").write_bytes(content)
    more = rng.choice([""] * 15 + [", one_hot: [0, 1]", ", one_hot: x", ", one_hot: [.nan, 1]", ", x: 1", ", train: 5"])
    args = f"{{test: {names[1]}, train: {names[0]}{more}}}" if "train" not in more else f"{{test: {names[1]}{more}}}"
    features = rng.choice([3] * 12 + [6, 4])
    network = ["model.name=logistic_regression", f"model.args={{in_features: {features}}}"]
    return [
        "evaluate",
        "-q",
        *network,
        "model.checkpoint=random",
        "data.name=libsvm",
        "data.root=data",
        f"data.args={args}",
    ]


def mnist(rng: Random) -> list[str]:
    """Files in the format of MNIST, damaged."""
    folder = Path("data/MNIST/raw")
    folder.mkdir(parents=True)
    files = {}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">IIII", 2051, 20, 28, 28) + bytes(20 * 784)
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">II", 2049, 20) + bytes(i % 10 for i in range(20))
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(list(files))
        data = bytearray(files[name])
        how = rng.randrange(5)
        if how == 0:
            data = data[: rng.randrange(len(data) + 1)]
        elif how == 1:
            data[:16] = bytes(rng.randrange(256) if rng.random() < 0.1 else byte for byte in data[:16])
        elif how == 2:
            data[4:8] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\0\0\0", b"\0\0\0\x13"])
        elif how == 3:
            data[-1:] = bytes([rng.randrange(256)])
        else:
            data = bytearray(rng.choice([b"", gzip.compress(bytes(data)), rng.randbytes(100)]))
        files[name] = bytes(data)
    lost = rng.choice([*files, *[""] * 20])
    for name, content in files.items():
        if name != lost:
            (folder / name).write_bytes(content)
    args = ["{classes: [0, 1]}", "{classes: [0, 0]}", "{mean: [.nan]}", "{std: [0]}", "{std: [.inf]}", "{std: [x]}"]
    classes = rng.choice(["{}"] * 15 + args)
    return _on("mnist", classes, "{}")


def own_dataset(rng: Random) -> list[str]:
    """A dataset of a user's own that goes wrong, perhaps late."""
    faults = [
        "raises",
        "dies",
        "label",
        "nan",
        "shape",
        "dtype",
        "text",
        "none",
        "length",
        "memory",
        "exit",
        "fine",
    ]
    args = f"{{fault: {rng.choice(faults)}, at: {rng.choice([0, 3, 280, 299])}, part: {rng.choice(['train', 'test'])}}}"
    command = rng.choice([["evaluate"], ["train", "train.epochs=1"], ["prune", "score.criterion=taylor"], ["score"]])
    fast = ["data.calibration=400", "data.batch_size=64", "prune.scope=global", "run.threads=1"]
    network = [f"model.factory={NETWORK}", "model.checkpoint=random"]
    return [*command, "-q", *fast, *network, f"data.factory={DATASET}", f"data.args={args}"]


def _on(data: str, args: str, network: str) -> list[str]:
    words = ["data.root=data", f"data.name={data}", f"data.args={args}", f"model.factory={NETWORK}"]
    return ["evaluate", "-q", *words, f"model.args={network}", "model.checkpoint=random", "run.threads=1"]
