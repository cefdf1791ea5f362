"""The training loop: it learns, it repeats itself bit by bit, it resumes, and it says what is wrong."""

import math
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infprune.data.augment import AUGMENTATIONS, crop_flip
from infprune.data.dataset import ArrayDataset
from infprune.data.loaders import batches
from infprune.errors import ConfigError, InputError
from infprune.training import Epoch, Recipe, train

RECIPES = {
    "sgd": Recipe(epochs=4, batch_size=16, lr=0.05, warmup_epochs=1.0),
    "everything": Recipe(
        epochs=4,
        batch_size=16,
        optimizer="adamw",
        lr=0.01,
        weight_decay=0.01,
        ema=0.9,
        label_smoothing=0.1,
        clip_norm=1.0,
        augment="crop-flip",
        schedule="constant",
    ),
}


def images(n=60):
    """Three easy classes: a bright row at the top, in the middle, at the bottom, in noise."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 3
    x = 0.3 * torch.randn(n, 1, 9, 9, generator=generator)
    x[torch.arange(n), 0, 1 + 3 * y] += 1.0
    return ArrayDataset(x, y)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(6 * 81, 3),
    )


def small_crop(x):
    return crop_flip(x, padding=1)


def run(recipe, module=None, data=None, **options):
    """Train on `images`, with augmentation where the recipe names one; seed 5 unless told."""
    data = data or images()
    options = {"seed": 5, "augment": small_crop if recipe.augment == "crop-flip" else AUGMENTATIONS["none"]} | options
    return train(module or network(), data, batches(data, 32), recipe, **options)


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


# --- it learns


@pytest.mark.parametrize("name", RECIPES)
def test_learns_an_easy_problem(name):
    trained = run(replace(RECIPES[name], epochs=6))
    losses = [epoch.loss for epoch in trained.history]
    assert losses[-1] < (0.6 if RECIPES[name].label_smoothing else 0.3) * losses[0]
    assert trained.history[-1].train_accuracy > 0.9
    assert trained.history[-1].validation_accuracy > 0.9
    assert [epoch.epoch for epoch in trained.history] == [1, 2, 3, 4, 5, 6]


def test_history_is_the_mean_over_the_training_batches():
    module = nn.Sequential(nn.Flatten(), nn.Linear(81, 3))
    data = images()
    with torch.no_grad():
        logits = module(data.x)
    for smoothing in (0.0, 0.2):
        trained = run(Recipe(epochs=1, lr=0.0, batch_size=13, label_smoothing=smoothing), module)
        expected = float(F.cross_entropy(logits, data.y, label_smoothing=smoothing))
        right = float((logits.argmax(1) == data.y).double().mean())
        assert trained.history == (Epoch(1, pytest.approx(expected, rel=1e-5), right, right),)
    assert abs(expected - float(F.cross_entropy(logits, data.y))) > 1e-3


def test_trains_in_place_and_leaves_frozen_parameters():
    module = network()
    module[0].weight.requires_grad_(False)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    trained = run(RECIPES["sgd"], module)
    assert trained.module is module
    assert torch.equal(module[0].weight, before["0.weight"])
    assert not torch.equal(module[5].weight, before["5.weight"])
    assert int(module[1].num_batches_tracked) == 4 * 4


def test_a_last_batch_of_one_is_left_out():
    module = network()
    trained = run(Recipe(epochs=2, batch_size=4), module, ArrayDataset(images().x[:5], images().y[:5]))
    assert int(module[1].num_batches_tracked) == 2
    assert all(epoch.loss > 0 for epoch in trained.history)


# --- the steps


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(81, 3))


def weights_after(monkeypatch, recipe, kind=torch.optim.SGD):
    """(learning rate, weights) at each optimizer step of a run."""
    seen, step = [], kind.step
    module = linear()

    def watched(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        seen.append((self.param_groups[0]["lr"], module[1].weight.detach().clone()))
        return result

    monkeypatch.setattr(kind, "step", watched)
    return run(recipe, module), seen


def test_cosine_after_warm_up(monkeypatch):
    # 60 samples in batches of 15: 4 steps an epoch; 1 epoch of warm-up to 0.8, then half a cosine over 4 epochs.
    _, seen = weights_after(monkeypatch, Recipe(epochs=5, lr=0.8, warmup_epochs=1.0, batch_size=15))
    rates = [rate for rate, _ in seen]
    assert len(rates) == 20
    assert rates[:4] == pytest.approx([0.0, 0.2, 0.4, 0.6], abs=1e-3)
    assert rates[4] == pytest.approx(0.8)
    assert rates[8] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert rates[12] == pytest.approx(0.4)
    assert rates[16] == pytest.approx(0.4 * (1 - math.sqrt(0.5)))
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[19] < 0.01


def test_constant_schedule(monkeypatch):
    recipe = Recipe(epochs=3, lr=0.8, schedule="constant", warmup_epochs=0.5, batch_size=15, optimizer="adamw")
    _, seen = weights_after(monkeypatch, recipe, torch.optim.AdamW)
    rates = [rate for rate, _ in seen]
    assert rates[:2] == pytest.approx([0.0, 0.4], abs=2e-3)
    assert rates[2:] == [0.8] * 10


def test_the_first_step_is_never_of_rate_zero(monkeypatch):
    _, seen = weights_after(monkeypatch, Recipe(epochs=1, lr=0.1, warmup_epochs=1.0, batch_size=60))
    assert 0 < seen[0][0] < 1e-3


def test_sgd_is_nesterov_momentum_with_weight_decay():
    module, reference = linear(), linear()
    recipe = Recipe(epochs=3, lr=0.1, momentum=0.9, weight_decay=0.01, schedule="constant", batch_size=60)
    run(recipe, module)
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(reference(images().x), images().y).backward()
        optimizer.step()
    assert torch.allclose(module[1].weight, reference[1].weight, rtol=1e-4, atol=1e-6)


def test_clip_norm_bounds_the_step():
    module, start = linear(), linear()
    recipe = Recipe(epochs=1, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", batch_size=60)
    run(replace(recipe, clip_norm=1e-3), module)
    moved = [a.detach() - b.detach() for a, b in zip(module.parameters(), start.parameters(), strict=True)]
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(1e-3, rel=1e-3)
    free = linear()
    run(recipe, free)
    assert float((free[1].weight - start[1].weight).detach().norm()) > 1e-2


def test_the_moving_average(monkeypatch):
    recipe = Recipe(epochs=1, lr=0.1, ema=0.75, batch_size=20)
    trained, ((_, first), (_, second), (_, third)) = weights_after(monkeypatch, recipe)
    expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
    assert torch.allclose(trained.module[1].weight, expected, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(trained.module[1].weight, third)


def test_bfloat16_computes_in_less_and_keeps_float32_weights():
    exact, rough = linear(), linear()
    recipe = Recipe(epochs=2, lr=0.1, batch_size=20)
    run(recipe, exact)
    run(replace(recipe, precision="bf16"), rough)
    assert rough[1].weight.dtype == torch.float32
    difference = float((exact[1].weight - rough[1].weight).detach().abs().max())
    assert 1e-6 < difference < 1e-2


# --- it repeats itself


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_bits(name):
    first, again, other = (run(RECIPES[name], seed=seed) for seed in (5, 5, 6))
    assert same(first.module, again.module)
    assert first.history == again.history
    assert not same(first.module, other.module)


def test_every_epoch_has_its_own_order_and_noise():
    orders, noise = [], []

    def watch(x):
        orders.append(tuple(x[:, 0, 0, 0].tolist()))
        noise.append(float(torch.rand(1)))
        return x

    run(Recipe(epochs=3, batch_size=60), augment=watch)
    assert len(set(orders)) == len(set(noise)) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(images().x[:, 0, 0, 0].tolist()))}


class Telling:
    """Progress that records, and interrupts the run at a step."""

    def __init__(self, stop=None):
        self.bars, self.steps, self.notes, self.stop = [], 0, [], stop

    @contextmanager
    def bar(self, description, total):
        self.bars.append((description, total))
        yield self

    def advance(self, note=""):
        self.steps += 1
        self.notes.append(note)
        if self.steps == self.stop:
            raise KeyboardInterrupt


def test_progress_hears_every_step():
    progress = Telling()
    trained = run(Recipe(epochs=2, batch_size=25), progress=progress)
    assert progress.bars == [("epoch 1/2", 3), ("epoch 2/2", 3)]
    assert progress.steps == 6
    last = trained.history[0]
    assert progress.notes[2] == f"loss {last.loss:.4f}  train accuracy {last.train_accuracy:.4f}"


@pytest.mark.parametrize("stop", [3, 4, 6, 15])  # steps: before any epoch ends, at its last step, later
@pytest.mark.parametrize("name", RECIPES)
def test_resumed_equals_uninterrupted(name, stop, tmp_path):
    whole = run(RECIPES[name])
    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run(RECIPES[name], checkpoint=file, resume=True, progress=Telling(stop))
    assert file.exists() == (stop > 4)
    start = network(seed=0 if stop <= 4 else 99)  # weights of the new process do not matter once there is a checkpoint
    progress = Telling()
    resumed = run(RECIPES[name], start, checkpoint=file, resume=True, progress=progress)
    assert same(resumed.module, whole.module)
    assert resumed.history == whole.history
    assert len(progress.bars) == 4 - max(0, stop - 1) // 4


def test_resume_of_a_finished_run_trains_no_more(tmp_path):
    recipe, file = RECIPES["everything"], tmp_path / "state.pt"
    done = run(recipe, checkpoint=file)
    content = file.read_bytes()
    again = run(recipe, network(seed=9), checkpoint=file, resume=True, progress=(progress := Telling()))
    assert progress.steps == 0
    assert same(again.module, done.module)
    assert again.history == done.history
    assert file.read_bytes() == content


def test_without_resume_the_checkpoint_is_replaced(tmp_path):
    recipe, file = RECIPES["sgd"], tmp_path / "state.pt"
    run(recipe, checkpoint=file, seed=1)
    fresh = run(recipe, checkpoint=file, seed=2)
    assert same(fresh.module, run(recipe, seed=2).module)
    assert same(run(recipe, network(seed=9), checkpoint=file, resume=True, seed=2).module, fresh.module)


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:4]
import torch
torch.set_num_threads(1)
import test_training as t

def slow(x):
    time.sleep(0.03)
    return t.small_crop(x)

t.run(t.KILLED, augment=slow, checkpoint=Path(sys.argv[1]), resume=True)
"""
KILLED = replace(RECIPES["everything"], epochs=20)


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
    resumed = run(KILLED, network(seed=99), checkpoint=file, resume=True, progress=progress)
    assert 1 <= len(progress.bars) <= 19  # it was under way, and did not start over
    whole = run(KILLED)
    assert same(resumed.module, whole.module)
    assert resumed.history == whole.history


# --- what goes wrong


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
    with pytest.raises(ConfigError, match="it belongs to another network"):
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


def test_a_loss_that_is_not_finite_is_an_error():
    data = images()
    data.x[7] = math.nan
    with pytest.raises(InputError, match=r"the training loss became nan in epoch 1; lower lr \(now 0.05\)"):
        run(RECIPES["sgd"], data=data)
    with pytest.raises(InputError, match=r"the training loss became (nan|inf) in epoch"):
        run(Recipe(epochs=4, lr=1e30, batch_size=16))


# --- augmentation


def test_crop_flip_shifts_and_mirrors_every_image():
    x = torch.rand(40, 2, 5, 7) + 0.5
    torch.manual_seed(0)
    out = crop_flip(x, padding=2)
    assert out.shape == x.shape
    seen = set()
    for image, result in zip(x, out, strict=True):
        padded = F.pad(image, (2,) * 4)
        windows = {(dy, dx): padded[:, dy : dy + 5, dx : dx + 7] for dy in range(5) for dx in range(5)}
        plain = [(*shift, False) for shift, window in windows.items() if torch.equal(result, window)]
        mirrored = [(*shift, True) for shift, window in windows.items() if torch.equal(result, window.flip(2))]
        assert len(plain + mirrored) == 1
        seen.update(plain + mirrored)
    assert {dy for dy, _, _ in seen} == {dx for _, dx, _ in seen} == set(range(5))
    assert 10 < sum(flag for *_, flag in seen) < len(seen) - 5


def test_crop_flip_follows_the_global_seed_and_leaves_its_input():
    x = torch.rand(8, 1, 6, 6)
    before = x.clone()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(crop_flip(x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(x, before)
    assert AUGMENTATIONS["none"](x) is x
    assert AUGMENTATIONS["crop-flip"] is crop_flip
