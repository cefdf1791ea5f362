"""Images in channels_last: where the network takes it, and never another result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from infprune.evaluation import evaluate
from infprune.layout import arranged, arrangement
from infprune.modes import evaluating
from infprune.training import Recipe, train


class _Seen(nn.Module):
    """A convolution that remembers the formats of what it was given, and a head made by `flat`."""

    def __init__(self, flat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.linear = nn.Linear(6 * 16, 4)
        self.flat = flat
        self.last: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last.append(not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last))
        z: Tensor = self.linear(self.flat(self.conv(x).relu()))
        return z


def _reshaped(x: Tensor) -> Tensor:
    return x.flatten(1)


def _viewed(x: Tensor) -> Tensor:
    return x.view(len(x), -1)


def _as_stored(x: Tensor) -> Tensor:
    return x.as_strided((len(x), 6 * 16), (6 * 16, 1))


def _batches(device: torch.device, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 3, 4, 4, generator=generator).to(device), torch.arange(5, device=device) % 4)
        for _ in range(count)
    ]


def _network(flat: Callable[[Tensor], Tensor], device: torch.device) -> _Seen:
    torch.manual_seed(0)
    return _Seen(flat).to(device)


def test_a_network_that_takes_it_gets_channels_last_on_a_cpu(device: torch.device) -> None:
    module = _network(_reshaped, device)
    found = list(arranged(module, _batches(device)))
    for (x, y), (given, label) in zip(found, _batches(device), strict=True):
        assert torch.equal(x, given)
        assert torch.equal(y, label)
        assert x.is_contiguous(memory_format=torch.channels_last) == (device.type == "cpu")


@pytest.mark.parametrize("flat", [_viewed, _as_stored])
def test_a_network_that_fails_or_answers_otherwise_gets_images_as_they_are(
    flat: Callable[[Tensor], Tensor], device: torch.device
) -> None:
    module = _network(flat, device)
    assert all(x.is_contiguous() for x, _ in arranged(module, _batches(device)))
    assert evaluate(module, _batches(device)).samples == 15


@pytest.mark.parametrize(
    "x",
    [torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 12), torch.randint(9, (2, 3, 4, 4))],
    ids=["float64", "no image", "integers"],
)
def test_other_inputs_stay_the_same_object(x: Tensor) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2), nn.Conv2d(1, 1, 1))
    assert arrangement(module, x)(x) is x


def test_a_network_without_convolutions_is_not_tried() -> None:
    x = torch.randn(2, 3, 4, 4)
    calls: list[int] = []
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    module.register_forward_hook(lambda *_: calls.append(1))
    assert arrangement(module, x)(x) is x
    assert not calls


def test_trying_changes_neither_modes_nor_statistics_nor_what_is_drawn_next(device: torch.device) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 4)).to(
        device
    )
    module.train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    arrangement(module, _batches(device)[0][0])
    assert torch.equal(torch.rand(4), wanted)
    assert module.training
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_several_inputs_of_which_one_is_an_image(device: torch.device) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4)
            self.linear = nn.Linear(5, 4)

        def forward(self, image: Tensor, row: Tensor) -> Tensor:
            z: Tensor = self.conv(image).flatten(1) + self.linear(row)
            return z

    module = Two().to(device)
    image, row = torch.randn(3, 3, 4, 4, device=device), torch.randn(3, 5, device=device)
    found = arrangement(module, (image, row))((image, row))
    assert isinstance(found, tuple)
    assert found[1] is row
    assert found[0].is_contiguous(memory_format=torch.channels_last) == (device.type == "cpu")


def test_evaluation_and_training_use_it_and_end_where_they_did(device: torch.device) -> None:
    """Against the same network whose own first step undoes the format."""

    class Undoing(_Seen):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.contiguous())

    ends, losses = [], []
    x, y = _batches(device, 1)[0]
    for kind in (_Seen, Undoing):
        torch.manual_seed(0)
        module = kind(_reshaped).to(device)
        data = [(image, int(label)) for image, label in zip(x.cpu(), y.cpu(), strict=True)]
        train(module, data, [(x, y)], Recipe(epochs=3, lr=0.1, batch_size=5), seed=0)  # type: ignore[arg-type]
        with evaluating(module):
            ends.append(module(x).detach())
        losses.append(evaluate(module, [(x, y)]).loss)
        if kind is _Seen and device.type == "cpu":
            assert sum(module.last) >= 6  # three steps, three judgements
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
