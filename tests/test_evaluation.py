import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from forms import Couple, Digits, Mapping, Packed, TwoInputs, WithAuxiliary, drawn
from infprune.errors import ArchitectureError, InputError
from infprune.evaluation import Evaluation, answers, contrast, evaluate


def split(x, y, sizes):
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def test_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    y = torch.tensor([0, 0, 0, 0])
    result = evaluate(nn.Identity(), [(logits, y)])
    log2 = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.e), math.log(1 + math.exp(-1))]
    assert result == Evaluation(accuracy=0.75, loss=pytest.approx(sum(log2) / 4, rel=1e-6), samples=4)


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 3, 3, 1], [9, 1]])
def test_the_split_into_batches_does_not_matter(sizes):
    module, x, y = nn.Linear(4, 3), torch.randn(10, 4), torch.arange(10) % 3
    result = evaluate(module, split(x, y, sizes))
    with torch.no_grad():
        logits = module(x)
    assert result.samples == 10
    assert result.accuracy == float((logits.argmax(1) == y).sum()) / 10
    assert result.loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-6)


def test_answers_are_those_of_each_sample_in_order():
    module, x, y = nn.Linear(4, 3), torch.randn(10, 4), torch.arange(10) % 3
    found = answers(module, split(x, y, [3, 7]))
    with torch.no_grad():
        logits = module(x)
    assert torch.equal(found.predicted, logits.argmax(1))
    assert torch.allclose(found.loss, F.cross_entropy(logits, y, reduction="none"))
    assert torch.equal(found.y, y)
    assert found.accuracy == evaluate(module, split(x, y, [10])).accuracy
    with pytest.raises(InputError, match="empty split"):
        answers(module, [])
    with pytest.raises(InputError, match="not finite"):
        answers(module, [(x / 0.0, y)])


def test_eval_mode_without_gradients_and_modes_given_back():
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3))
    module[1].eval()
    seen = []
    module[2].register_forward_hook(lambda m, *_: seen.append((m.training, torch.is_grad_enabled())))
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    assert evaluate(module, [(x, y)]) == evaluate(module, [(x, y)])  # no dropout
    assert seen == [(False, False)] * 2
    assert [m.training for m in module.modules()] == [True, True, False, True]
    assert torch.equal(module[1].running_mean, torch.zeros(4))


def test_half_precision_logits_are_summed_in_float32():
    logits, y = torch.randn(64, 5), torch.arange(64) % 5
    result = evaluate(nn.Identity(), [(logits.bfloat16(), y)])
    assert result.loss == pytest.approx(float(F.cross_entropy(logits.bfloat16().float(), y)), rel=1e-6)


def test_no_samples():
    with pytest.raises(InputError, match="expected samples to evaluate on, got an empty split"):
        evaluate(nn.Identity(), [])


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.Linear(4, 2), r"expected logits \(N, classes\) with classes > 2, got \(5, 2\)"),
        (nn.Unflatten(1, (2, 2)), r"expected logits \(5, classes\) from Unflatten, got \(5, 2, 2\)"),
    ],
)
def test_outputs_that_are_no_logits(module, text):
    with pytest.raises(ArchitectureError, match=text):
        evaluate(module, [(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))])
    assert module.training


@pytest.mark.parametrize("form", [Mapping, Couple, WithAuxiliary])
def test_the_form_of_the_output_does_not_matter(form):
    plain, module = Digits(), form().train()
    module.load_state_dict(plain.state_dict())
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    assert evaluate(module, split(x, y, [5, 3])) == evaluate(plain, split(x, y, [5, 3]))


def test_several_inputs():
    module, packed = TwoInputs(), Packed()
    packed.load_state_dict(module.state_dict())
    tokens, values, y = drawn(10, seed=2)
    found = evaluate(module, [((tokens[:7], values[:7]), y[:7]), ((tokens[7:], values[7:]), y[7:])])
    assert found == evaluate(packed, split(torch.cat([tokens, values], 1), y, [7, 3]))


class Fixed(nn.Module):
    """Returns its inputs in one of two columns as logits: `(N, 2, classes)` in, `(N, classes)` out."""

    def __init__(self, column):
        super().__init__()
        self.column = column

    def forward(self, x):
        return x[:, self.column]


def test_contrast_is_the_sum_over_classes():
    x, y = 3 * torch.randn(50, 2, 4), torch.randint(4, (50,))
    a, b = Fixed(0), Fixed(1)
    split = [(x[:7], y[:7]), (x[7:], y[7:])]
    found = contrast(a, b, split)
    assert found.a == evaluate(a, split)
    assert found.b == evaluate(b, split)
    assert found.agreement == sum(int(s[0].argmax()) == int(s[1].argmax()) for s in x) / 50
    truth = sum(
        p * math.log(p / q)
        for s in x.double()
        for p, q in zip(s[0].softmax(0).tolist(), s[1].softmax(0).tolist(), strict=True)
    )
    assert found.kl == pytest.approx(truth / 50, rel=1e-5)
    assert contrast(a, a, split).kl == 0
    with pytest.raises(InputError, match="empty split"):
        contrast(a, b, [])
