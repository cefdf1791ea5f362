"""What users get wrong: one clear line, the contract's exit code, existing files intact."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from forging import forged
from infprune.models import SHIPPED
from runs import SMALL

FAST = ["--criterion", "magnitude", "--scope", "global", "--compensate", "none", *SMALL]


def one_line(outcome):
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.err
    return lines[0]


def shipped_weights():
    return load_file(SHIPPED["digits_resnet"])


CASES = {
    "rate of 1": (["--rate", "1.0"], 2, "prune.rate: expected a number in [0, 1), got 1.0"),
    "negative rate": (["--rate", "-0.1"], 2, "prune.rate"),
    "unknown key": (["prune.rte=0.5"], 2, "did you mean prune.rate?"),
    "unknown criterion": (["--criterion", "influense"], 2, "score.criterion"),
    "no equals sign": (["rate"], 2, "expected key=value"),
    "unknown network": (["model.name=digits_resnt"], 2, "digits_resnet"),
    "unknown dataset": (["data.name=digit"], 2, "digits"),
    "missing config": (["-c", "nope.yaml"], 2, "no such file or shipped config"),
    "missing checkpoint": (["model.checkpoint=nope.safetensors"], 6, "nope.safetensors"),
    "no weights": (["model.name=vgg11_bn"], 6, "comes without trained weights"),
    "wrong input": (["model.name=resnet20", "model.checkpoint=random"], 3, "does not accept inputs of shape (1, 8, 8)"),
    "infeasible macs": (["--macs", "0.000001"], 4, "out of reach"),
    "all protected": (["prune.protect=['*']"], 4, "nothing to prune"),
    "inputs of no size": (["model.inputs=[{shape: [0]}]"], 2, "model.inputs: expected a list of {shape: "),
    "no data folder": (["data.name=mnist", "model.name=alexnet5", "model.checkpoint=random"], 6, "INFPRUNE_DATA"),
    "unknown class": (["data.name=mnist", "data.args={classes: [0, 10]}"], 2, "from 0 to 9, got [0, 10]"),
    "missing scores": (["--scores", "nope.safetensors"], 6, "nope.safetensors"),
    "two budgets": (["--rate", "0.5", "--macs", "0.5"], 2, "expected one of rate, macs, params, bytes, latency"),
    "bad device": (["--device", "gpu"], 2, "run.device"),
    "too narrow head": (["model.args={num_classes: 4}", "model.checkpoint=random"], 3, "expected logits (N, 10)"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_words(infprune, monkeypatch, case):
    monkeypatch.delenv("INFPRUNE_DATA", raising=False)
    words, code, text = CASES[case]
    outcome = infprune("prune", *FAST, *words)
    assert text in one_line(outcome)
    assert outcome.code == code


def test_errors_are_json_too(infprune):
    outcome = infprune("prune", "--rate", "2", "--json")
    assert outcome.code == outcome.json["exit_code"] == 2
    assert "prune.rate" in outcome.json["error"]


def test_all_faults_of_a_file_at_once(infprune, tmp_path):
    (tmp_path / "bad.yaml").write_text("prune:\n  rte: 1\n  floor: 2\nmodle: {}\n")
    outcome = infprune("prune", "-c", "bad.yaml")
    assert outcome.code == 2
    assert "3 faults" in outcome.err
    for text in ("prune.rte", "prune.floor", "modle: unknown key; did you mean model?"):
        assert text in outcome.err


def test_yaml_syntax_error_names_the_line(infprune, tmp_path):
    (tmp_path / "bad.yaml").write_text("prune:\n  rate: [0.5\n")
    outcome = infprune("prune", "-c", "bad.yaml")
    assert outcome.code == 2
    assert "bad.yaml: line 3" in one_line(outcome)


def test_truncated_checkpoint(infprune, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(SHIPPED["digits_resnet"].read_bytes()[:5000])
    outcome = infprune("prune", *FAST, "model.checkpoint=cut.safetensors")
    assert outcome.code == 6
    assert "cut.safetensors" in one_line(outcome)


def test_checkpoint_of_another_architecture_names_keys(infprune, tmp_path):
    save_file({"features.0.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    outcome = infprune("prune", *FAST, "model.checkpoint=other.safetensors")
    assert outcome.code == 6
    assert "conv1.weight" in one_line(outcome)
    assert "features.0.weight" in outcome.err


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_is_refused_and_not_run(infprune, tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Evil()}))
    torch.save({"weight": Evil()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        outcome = infprune("prune", *FAST, f"model.checkpoint={name}")
        assert outcome.code == 6
        assert name in one_line(outcome)
        assert not (tmp_path / "executed").exists()


def test_nan_weights(infprune, tmp_path):
    weights = shipped_weights()
    weights["linear.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    outcome = infprune("prune", *FAST, "model.checkpoint=nan.safetensors")
    assert outcome.code == 6
    assert "linear.weight" in one_line(outcome)


FACTORY = """
import torch
from infprune.data.dataset import ArrayDataset, Source
def broken(kind):
    x, y = torch.rand(200, 1, 8, 8), torch.arange(200) % 10
    if kind == "nan": x[7, 0, 0, 0] = float("nan")
    if kind == "label": y[5] = 12
    if kind == "empty": x, y = x[:0], y[:0]
    return Source(ArrayDataset(x, y), ArrayDataset(torch.rand(50, 1, 8, 8), torch.arange(50) % 10), 10, (1, 8, 8))
"""


@pytest.mark.parametrize(("kind", "text"), [("nan", "7"), ("label", "12"), ("empty", "empty")])
def test_broken_data(infprune, tmp_path, monkeypatch, kind, text):
    (tmp_path / f"broken_{kind}.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = infprune("prune", *FAST, f"data.factory=broken_{kind}:broken", f"data.args={{kind: {kind}}}")
    assert outcome.code == 6
    assert text in one_line(outcome)


def test_scores_of_other_weights_are_refused(infprune, tmp_path):
    assert infprune("score", "score.criterion=magnitude", "-o", "s.safetensors", "-q", *SMALL).code == 0
    weights = shipped_weights()
    weights["conv1.weight"] *= 2
    save_file(weights, tmp_path / "other.safetensors")
    outcome = infprune("prune", *FAST, "--scores", "s.safetensors", "model.checkpoint=other.safetensors")
    assert outcome.code == 6
    assert "belong to other weights" in one_line(outcome)


def test_a_scores_file_is_no_model(infprune, tmp_path):
    assert infprune("score", "score.criterion=magnitude", "-o", "s.safetensors", "-q", *SMALL).code == 0
    outcome = infprune("evaluate", "s.safetensors")
    assert outcome.code == 6
    assert "expected a model file, got a scores file" in one_line(outcome)


def test_an_output_that_cannot_be_written(infprune, tmp_path):
    (tmp_path / "file").write_text("x")
    outcome = infprune("prune", *FAST, "-o", "file/pruned.safetensors")
    assert outcome.code == 6
    assert "cannot write" in one_line(outcome)
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_disk_leaves_the_old_file(infprune, tmp_path, monkeypatch):
    (tmp_path / "old.safetensors").write_bytes(b"precious")
    real = os.fsync

    def full(descriptor):
        if os.fstat(descriptor).st_size > 100_000:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    outcome = infprune("prune", *FAST, "-o", "old.safetensors")
    assert outcome.code == 6
    assert "no space left" in one_line(outcome)
    assert (tmp_path / "old.safetensors").read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def listening():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background shell makes its children ignore it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_exits_130_and_keeps_files(tmp_path, number):
    old = tmp_path / "m.safetensors"
    old.write_bytes(b"precious")
    command = [sys.executable, "-m", "infprune", "train", "train.epochs=500", "-o", str(old)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=listening,  # noqa: PLW1509 - it only sets a signal's action
    )
    checkpoint = tmp_path / "runs/digits_resnet-train/train.ckpt"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert old.read_bytes() == b"precious"
    torch.load(checkpoint, weights_only=True)


@pytest.mark.parametrize("source", [[], ["-c", "digits"]])
@pytest.mark.parametrize("command", ["evaluate", "finetune"])
def test_a_file_cannot_make_commands_run(infprune, pruned, tmp_path, command, source):
    folder, result = pruned
    shutil.copy(folder / result["artifact"], tmp_path / "evil.safetensors")
    forged(tmp_path / "evil.safetensors", name=None, factory="os:system", args={"command": "touch executed"})
    outcome = infprune(command, "evil.safetensors", *source)
    assert outcome.code == 2
    assert "names os:system, which would be imported" in one_line(outcome)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("word", ["data.name=digits", "data={name: digits}"])
def test_other_data_need_not_trust_those_of_the_file(infprune, pruned, tmp_path, word):
    folder, result = pruned
    shutil.copy(folder / result["artifact"], tmp_path / "evil.safetensors")
    forged(tmp_path / "evil.safetensors", config={"data": {"name": None, "factory": "os:system"}})
    outcome = infprune("evaluate", "evil.safetensors")
    assert outcome.code == 2
    assert "names os:system, which would be imported" in one_line(outcome)
    assert infprune("evaluate", "evil.safetensors", word, "-q").code == 0


def test_a_file_cannot_choose_where_to_write(infprune, pruned, tmp_path):
    folder, result = pruned
    shutil.copy(folder / result["artifact"], tmp_path / "p.safetensors")
    forged(tmp_path / "p.safetensors", config={"run": {"dir": "elsewhere", "output": "elsewhere/x"}})
    assert infprune("finetune", "p.safetensors", "finetune.epochs=0", "-q").code == 0
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_configuration_inside_a_file(infprune, pruned, tmp_path):
    folder, result = pruned
    shutil.copy(folder / result["artifact"], tmp_path / "p.safetensors")
    forged(tmp_path / "p.safetensors", config={"data": {"batch_size": -1}})
    outcome = infprune("evaluate", "p.safetensors")
    assert outcome.code == 6
    assert "data.batch_size" in one_line(outcome)
    forged(tmp_path / "p.safetensors", config={"model": 5})
    assert infprune("evaluate", "p.safetensors").code == 6


def test_a_failed_run_leaves_the_replay_of_the_last_one(infprune, tmp_path):
    assert infprune("prune", *FAST, "-q").code == 0
    run = tmp_path / "runs/digits_resnet-prune"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert infprune("prune", *FAST, "--macs", "0.000001").code == 4
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resuming_the_finetuning_of_another_plan_is_refused(infprune):
    words = [*SMALL, "--compensate", "none", "--finetune", "finetune.epochs=1"]
    assert infprune("prune", "--criterion", "random", "-q", *words).code == 0
    outcome = infprune("prune", "--criterion", "magnitude", "--resume", *words)
    assert outcome.code == 2
    assert "started from other weights or data" in outcome.err


def test_a_damaged_or_foreign_measurements_file(infprune, tmp_path):
    words = ["--rates", "0.5", "--criteria", "magnitude", "--seeds", 1, "prune.compensate=none", *SMALL]
    assert infprune("report", *words, "-q").code == 0
    file = tmp_path / "runs/digits_resnet-report/measurements.json"
    content = file.read_text()
    outcome = infprune("report", *words, "--resume", "prune.floor=0.1")
    assert outcome.code == 2
    assert "measured with other settings" in one_line(outcome)
    assert file.read_text() == content
    file.write_text(content[:40])
    outcome = infprune("report", *words, "--resume")
    assert outcome.code == 6
    assert "damaged" in one_line(outcome)


def test_a_folder_as_checkpoint_and_an_endless_name(infprune, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "folder.safetensors", "x" * 400):
        outcome = infprune("prune", *FAST, f"model.checkpoint={name}")
        assert outcome.code == 6
        one_line(outcome)
        outcome = infprune("evaluate", name)
        assert outcome.code == 6
        one_line(outcome)


def test_arguments_that_json_cannot_hold(infprune):
    outcome = infprune("prune", *FAST, "model.args={num_classes: .nan}")
    assert outcome.code == 2
    assert "model.args" in one_line(outcome)


def test_a_factory_inside_a_file_is_not_imported(infprune, tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(
        "from infprune.models.digits_resnet import digits_resnet\n"
        "import pathlib; pathlib.Path('imported').touch()\n"
        "def net(): return digits_resnet()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    save_file(shipped_weights(), tmp_path / "w.safetensors")
    words = ["model.factory=mynet:net", "model.checkpoint=w.safetensors"]
    assert infprune("prune", *FAST, *words, "-o", "p.safetensors", "-q").code == 0
    (tmp_path / "imported").unlink()
    sys.modules.pop("mynet")
    outcome = infprune("evaluate", "p.safetensors")
    assert outcome.code == 2
    assert "model.factory=mynet:net" in one_line(outcome)
    assert not (tmp_path / "imported").exists()
    outcome = infprune("evaluate", "p.safetensors", "model.factory=mynet:net", "--json")
    assert outcome.code == 0
    assert outcome.json["accuracy"] == outcome.json["recorded"]


OUT_OF_MEMORY = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
@pytest.mark.parametrize("command", ["evaluate", "score", "train", "export", "doctor"])
def test_out_of_memory_names_the_batch_sizes_to_try(infprune, monkeypatch, kind, command):
    def forward(*_):
        raise OUT_OF_MEMORY[kind]

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    outcome = infprune(command, "-q", "data.batch_size=96", "finetune.batch_size=32")
    assert outcome.code == 2
    assert one_line(outcome).startswith("error: out of memory (")
    assert outcome.err.strip().endswith("try data.batch_size=48 (now 96) and finetune.batch_size=16 (now 32)")


def test_other_errors_keep_their_traceback(infprune, monkeypatch):
    def fails(*_):
        raise RuntimeError("memory of an elephant")

    monkeypatch.setattr("infprune.pipeline.evaluate.evaluate", fails)
    with pytest.raises(RuntimeError, match="elephant"):
        infprune("evaluate")


def test_words_of_a_file_cannot_drive_the_terminal(infprune, tmp_path):
    content = json.dumps({"kind": "\x1b[2J\nerror: all is well\u202e"})
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"infprune": content})
    outcome = infprune("evaluate", "x.safetensors")
    assert outcome.code == 6
    assert r"got a \x1b[2J\nerror: all is well\u202e file" in one_line(outcome)


def test_names_that_no_file_can_have(infprune):
    long = "x" * 300
    words = {
        f"train.schedule={long}": 2,
        f"data.name=mnist data.root={long}": 6,
        f"data.name=libsvm data.root=. data.args={{train: {long}, test: b}}": 6,
    }
    for given, code in words.items():
        outcome = infprune("evaluate", "-q", *given.split(" ", 2))
        assert outcome.code == code
        one_line(outcome)
    assert infprune("configs", "cp", "digits", long).code == 6


def test_a_run_folder_that_cannot_be_written_leaves_the_old_model(infprune, tmp_path):
    (tmp_path / "old.safetensors").write_bytes(b"precious")
    for words in (["prune", *FAST], ["train", "train.epochs=0"], ["score", *SMALL, "score.criterion=magnitude"]):
        outcome = infprune(*words, "-q", "-o", "old.safetensors", "run.dir=/dev/null")
        assert outcome.code == 6
        one_line(outcome)
        assert (tmp_path / "old.safetensors").read_bytes() == b"precious"


def test_an_infeasible_budget_does_not_cost_the_scores(infprune, tmp_path):
    words = ["score.criterion=magnitude", "prune.macs=0.000001", "prune.scope=global", *SMALL]
    outcome = infprune("score", *words, "-o", "s.safetensors")
    assert outcome.code == 4
    assert "is out of reach" in one_line(outcome)
    assert "the scores were written, use --scores s.safetensors with another budget" in one_line(outcome)
    assert "macs: 1.0e-06" in (tmp_path / "runs/digits_resnet-score/config.yaml").read_text()
    assert infprune("prune", *FAST, "--scores", "s.safetensors", "-q").code == 0


def streamed(arguments, stdout, **environment):
    command = [sys.executable, "-m", "infprune", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=env, check=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110 - a device
def test_a_full_stdout_is_told():
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = streamed(["configs", "ls"], full)
    assert done.returncode == 6
    assert done.stderr.startswith("error: cannot write to standard output: no space left on device")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_gone_away_and_a_terminal_without_arrows(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = streamed(["configs", "ls"], closed)
    assert (done.returncode, done.stderr) == (6, "")
    config = tmp_path / "λ.yaml"
    config.write_text("λ: 1\n", encoding="utf-8")
    done = streamed(["configs", "show", "digits"], subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("train", "train.epochs=1"), ("report", "--rates", "0.5", "--criteria", "random")])
def test_resuming_in_a_folder_whose_name_is_too_long(words, infprune):
    outcome = infprune(*words, "--resume", f"run.dir={'x' * 300}", "prune.compensate=none", "-q", *SMALL)
    assert outcome.code == 6
    assert "cannot write" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
