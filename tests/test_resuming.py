"""A run that is interrupted or killed ends like one that was not; a wrong checkpoint is refused."""

import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from easy_training import KILLED, RECIPES, Telling, network, run, same
from infprune.errors import ConfigError, InputError


@pytest.mark.parametrize("stop", [3, 4, 6, 15])  # steps: before any epoch ends, at its last step, later
@pytest.mark.parametrize("name", RECIPES)
def test_resumed_equals_uninterrupted(name, stop, tmp_path):
    whole = run(RECIPES[name])
    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run(RECIPES[name], checkpoint=file, resume=True, progress=Telling(stop))
    assert file.exists() == (stop > 4)
    progress = Telling()
    resumed = run(RECIPES[name], checkpoint=file, resume=True, progress=progress)
    assert same(resumed.module, whole.module)
    assert resumed.history == whole.history
    assert len(progress.bars) == 4 - max(0, stop - 1) // 4


def test_resume_of_a_finished_run_trains_no_more(tmp_path):
    recipe, file = RECIPES["everything"], tmp_path / "state.pt"
    done = run(recipe, checkpoint=file)
    content = file.read_bytes()
    again = run(recipe, checkpoint=file, resume=True, progress=(progress := Telling()))
    assert progress.steps == 0
    assert same(again.module, done.module)
    assert again.history == done.history
    assert file.read_bytes() == content


def test_without_resume_the_checkpoint_is_replaced(tmp_path):
    recipe, file = RECIPES["sgd"], tmp_path / "state.pt"
    run(recipe, checkpoint=file, seed=1)
    fresh = run(recipe, checkpoint=file, seed=2)
    assert same(fresh.module, run(recipe, seed=2).module)
    assert same(run(recipe, checkpoint=file, resume=True, seed=2).module, fresh.module)


@pytest.mark.parametrize("changes", [{"module": network(seed=9)}, {"origin": "other data"}])
def test_a_checkpoint_of_another_start_is_refused(changes, tmp_path):
    recipe, file = RECIPES["sgd"], tmp_path / "state.pt"
    run(recipe, checkpoint=file)
    content = file.read_bytes()
    with pytest.raises(ConfigError, match="it started from other weights or data; drop --resume"):
        run(recipe, checkpoint=file, resume=True, **changes)
    assert file.read_bytes() == content


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:4]
import torch
torch.set_num_threads(1)
import easy_training as t

def slow(x, rows):
    time.sleep(0.03)
    return t.small_crop(x, rows=rows)

t.run(t.KILLED, augment=slow, checkpoint=Path(sys.argv[1]), resume=True)
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path, request):
    file, log = tmp_path / "state.pt", tmp_path / "log"
    folders = [str(request.config.rootpath), str(request.path.parent)]
    with log.open("w") as out:
        child = subprocess.Popen([sys.executable, "-c", CHILD, file, *folders], stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 60
            while not file.exists() and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.2)
        finally:
            child.send_signal(signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL, log.read_text()
    progress = Telling()
    resumed = run(KILLED, checkpoint=file, resume=True, progress=progress)
    assert 1 <= len(progress.bars) <= 19  # it was under way, and did not start over
    whole = run(KILLED)
    assert same(resumed.module, whole.module)
    assert resumed.history == whole.history


CHANGES = {"lr": 0.02, "epochs": 9, "ema": None, "optimizer": "sgd", "augment": "none", "batch_size": 8}


@pytest.mark.parametrize("field", CHANGES)
def test_another_recipe_is_refused(field, tmp_path):
    recipe, file = replace(RECIPES["everything"], epochs=1), tmp_path / "state.pt"
    run(recipe, checkpoint=file)
    message = f"{field} {getattr(recipe, field)!r} -> {CHANGES[field]!r}"
    with pytest.raises(ConfigError) as caught:
        run(replace(recipe, **{field: CHANGES[field]}), checkpoint=file, resume=True)
    assert str(caught.value) == f"cannot resume from {file}: it was made with other settings ({message})"


def test_another_seed_or_network_is_refused(tmp_path):
    recipe, file = replace(RECIPES["sgd"], epochs=1), tmp_path / "state.pt"
    run(recipe, checkpoint=file)
    with pytest.raises(ConfigError, match=r"other settings \(seed 5 -> 6\)"):
        run(recipe, checkpoint=file, resume=True, seed=6)
    with pytest.raises(ConfigError, match="it started from other weights or data"):
        run(recipe, nn.Sequential(nn.Flatten(), nn.Linear(81, 3)), checkpoint=file, resume=True)


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "foreign", "folder"])
def test_damaged_checkpoints_are_refused(damage, tmp_path):
    recipe, file = replace(RECIPES["sgd"], epochs=1), tmp_path / "state.pt"
    run(recipe, checkpoint=file)
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, file)
    else:
        file.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"epoch 1"}[damage])
    with pytest.raises(InputError, match="not a training checkpoint; delete it to start over"):
        run(recipe, checkpoint=file, resume=True)


class Malicious:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_checkpoint_runs_no_code(how, tmp_path):
    file, trace = tmp_path / "state.pt", tmp_path / "executed"
    content = {"recipe": {}, "history": [], "module": Malicious(trace)}
    if how == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="not a training checkpoint"):
        run(RECIPES["sgd"], checkpoint=file, resume=True)
    assert not trace.exists()
    pickle.loads(pickle.dumps(content))["module"].close()  # noqa: S301 - it would have
    assert trace.exists()


def changed(content, *path):
    *above, last, value = path
    node = content
    for key in above:
        node = node[key]
    node[last] = value(node[last]) if callable(value) else value


DAMAGES = {
    "momentum": ("optimizer", "param_groups", 0, "betas", (0.9, "x")),
    "group": ("optimizer", "param_groups", 0, 5),
    "state": ("optimizer", "state", 0, "exp_avg", lambda t: t.flatten()[:1]),
    "nan state": ("optimizer", "state", 0, "exp_avg", lambda t: t * float("nan")),
    "no state": ("optimizer", "state", None),
    "nan weight": ("module", "0.weight", lambda t: t * float("inf")),
    "no module": ("module", 3),
    "no average": ("average", "x"),
    "epochs": ("history", lambda epochs: epochs * 9),
    "loss": ("history", 0, "loss", "x"),
    "recipe": ("recipe", 5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_states_that_no_training_leaves_are_refused(damage, tmp_path):
    recipe, file = replace(RECIPES["everything"], epochs=1), tmp_path / "state.pt"
    run(recipe, checkpoint=file)
    content = torch.load(file, weights_only=True)
    changed(content, *DAMAGES[damage])
    torch.save(content, file)
    with pytest.raises(InputError, match=r"cannot resume from .*delete it to start over"):
        run(recipe, checkpoint=file, resume=True)


def test_a_pickle_of_a_later_protocol_is_refused_without_a_warning(tmp_path):
    file = tmp_path / "state.pt"
    file.write_bytes(pickle.dumps({"recipe": {}}, protocol=4))
    with pytest.raises(InputError, match="not a training checkpoint"):
        run(RECIPES["sgd"], checkpoint=file, resume=True)


def test_a_single_flipped_bit_is_damage(tmp_path):
    recipe, file = replace(RECIPES["everything"], epochs=1), tmp_path / "state.pt"
    whole = run(recipe, checkpoint=file)
    content = bytearray(file.read_bytes())
    weights = whole.module.state_dict()["5.weight"].numpy().tobytes()
    at = content.find(weights)
    assert at > 0
    content[at + len(weights) // 2] ^= 1
    file.write_bytes(content)
    torch.load(file, weights_only=True)  # sees nothing
    with pytest.raises(InputError, match="not a training checkpoint; delete it to start over"):
        run(recipe, checkpoint=file, resume=True)
