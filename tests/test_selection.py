"""Properties of every plan, over random layers, scores, floors and widths."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Size

from infprune import selection
from infprune.cost import count
from infprune.coupling.groups import ChannelLayer, Computation, CoupledSlice, Coupling, Role, TensorSpec
from infprune.errors import BudgetError
from infprune.scores.contract import ChannelScores, Curve
from infprune.selection import Budget, Limits, PruningPlan, prunable

INPUTS, OUTPUTS = 3, 2


def chain(sizes, frozen=()):
    """Linear layers of these widths in a row, then an output layer; layer `l1` is the first."""
    widths = [INPUTS, *sizes, OUTPUTS]
    tensors, calls, layers = {}, [], []
    for i in range(1, len(widths)):
        tensors[f"l{i}.weight"] = TensorSpec(Size((widths[i], widths[i - 1])), 4, parameter=True)
        tensors[f"l{i}.bias"] = TensorSpec(Size((widths[i],)), 4, parameter=True)
        calls.append(Computation(f"l{i}.weight", f"l{i}.bias", positions=i, groups=1))
    for i in range(1, len(widths)):
        index = torch.arange(widths[i])[:, None]
        slices = [
            CoupledSlice(f"l{i}.weight", 0, Role.PRODUCER, index),
            CoupledSlice(f"l{i}.bias", 0, Role.PRODUCER, index),
        ]
        if i < len(widths) - 1:
            slices.append(CoupledSlice(f"l{i + 1}.weight", 1, Role.CONSUMER, index))
        reason = "it is an output of the network" if i == len(widths) - 1 else "told so" if i in frozen else None
        layers.append(ChannelLayer(f"l{i}", tuple(slices), reason))
    return Coupling(tuple(layers), tuple(calls), tensors)


class Scores(dict):
    """Scores by layer name, and curves."""

    def __init__(self, values, curves=()):
        super().__init__(values)
        self.curves = dict(curves)


def select(coupling, layers, scores, budget, limits):
    given = ChannelScores("made up", "none", dict(scores), getattr(scores, "curves", {}))
    return selection.select(coupling, layers, given, budget, limits)


@st.composite
def problems(draw):
    """A coupling, its prunable layers, scores, and curves that need not be monotone or convex."""
    coupling = chain(draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)))
    layers = prunable(coupling)
    total = sum(layer.size for layer in layers)
    if draw(st.booleans()):  # with ties
        flat = draw(st.lists(st.integers(0, 3), min_size=total, max_size=total))
    else:
        flat = draw(st.permutations(range(total)))
    parts = torch.tensor(flat, dtype=torch.float64).split([layer.size for layer in layers])
    scores = Scores({layer.name: part for layer, part in zip(layers, parts, strict=True)})
    scores.curves = {layer.name: draw(curves(layer.size)) for layer in layers}
    return coupling, layers, scores


def curves(size):
    kept = st.lists(st.integers(0, size - 1), min_size=1, max_size=5, unique=True)
    return kept.flatmap(
        lambda found: st.lists(st.floats(0, 4), min_size=len(found), max_size=len(found)).map(
            lambda loss: Curve(tuple(sorted(found, reverse=True)), tuple(loss))
        )
    )


rates = st.floats(0, 0.99)
floors = st.sampled_from([0.0, 0.1, 0.2, 0.5])
scopes = st.sampled_from(["calibrated", "global", "layer"])
roundings = st.sampled_from([1, 2, 4, 8])


def total(layers):
    return sum(layer.size for layer in layers)


def gone(plan):
    return sum(int((~mask).sum()) for mask in plan.masks.values())


def floor_of(layer, floor, rate):
    return max(1, math.ceil(floor * (1 - rate) * layer.size - 1e-9))


def plan_or_none(problem, budget, limits):
    coupling, layers, scores = problem
    try:
        return select(coupling, layers, scores, budget, limits)
    except BudgetError:
        return None


@settings(max_examples=60, deadline=None)
@given(problems(), rates, floors, st.sampled_from(["calibrated", "global"]))
def test_global_rate_is_met_to_the_channel_and_floors_hold(problem, rate, floor, scope):
    _, layers, _ = problem
    n, wanted = total(layers), math.floor(rate * total(layers) + 1e-9)
    plan = plan_or_none(problem, Budget(rate=rate), Limits(scope, floor))
    feasible = [sum(floor_of(x, floor, r / n) for x in layers) <= n - r for r in range(wanted + 1)]
    assert (plan is not None) == all(feasible)
    if plan is not None:
        assert gone(plan) == wanted
        assert plan.rate == pytest.approx(wanted / n)
        assert plan.rate <= rate + 1e-9
        assert all(plan.kept[x.name] >= floor_of(x, floor, plan.rate) for x in layers)
        assert plan.masks.keys() == {x.name for x in layers}
        assert all(plan.masks[x.name].shape == (x.size,) for x in layers)


@settings(max_examples=60, deadline=None)
@given(problems(), st.tuples(rates, rates), floors, roundings, scopes)
def test_a_larger_rate_is_nested_and_never_keeps_more_macs(problem, pair, floor, round_to, scope):
    coupling, layers, _ = problem
    small, large = (plan_or_none(problem, Budget(rate=r), Limits(scope, floor, round_to)) for r in sorted(pair))
    if large is None:
        return
    assert small is not None  # what a larger rate allows, a smaller one does
    for layer in layers:
        assert not (large.masks[layer.name] & ~small.masks[layer.name]).any()
    assert count(coupling, large.kept).macs <= count(coupling, small.kept).macs
    assert count(coupling, large.kept).params <= count(coupling, small.kept).params


@settings(max_examples=60, deadline=None)
@given(problems(), rates)
def test_without_floors_the_lowest_scores_go(problem, rate):
    _, layers, scores = problem
    plan = plan_or_none(problem, Budget(rate=rate), Limits(floor=0.0))
    if plan is None:
        return
    removed = [float(s) for name, mask in plan.masks.items() for s in scores[name][~mask]]
    loose = [name for name in plan.masks if plan.kept[name] > 1]
    kept = [float(s) for name in loose for s in scores[name][plan.masks[name]]]
    if removed and kept:
        assert max(removed) <= min(kept)
    for layer in layers:  # a layer of one channel keeps its best
        assert scores[layer.name][plan.masks[layer.name]].max() == scores[layer.name].max()


@settings(max_examples=60, deadline=None)
@given(problems(), rates, floors)
def test_layer_scope_cuts_every_layer_alike(problem, rate, floor):
    _, layers, scores = problem
    plan = plan_or_none(problem, Budget(rate=rate), Limits("layer", floor))
    for layer in layers:
        mask, values = plan.masks[layer.name], scores[layer.name]
        assert plan.kept[layer.name] == max(1, layer.size - math.floor(rate * layer.size + 1e-9))
        if not mask.all():
            assert values[~mask].max() <= values[mask].min()


@settings(max_examples=60, deadline=None)
@given(problems(), rates, floors, roundings, scopes)
def test_round_to(problem, rate, floor, round_to, scope):
    _, layers, _ = problem
    plan = plan_or_none(problem, Budget(rate=rate), Limits(scope, floor, round_to))
    if plan is None:
        return
    assert gone(plan) <= rate * total(layers) + 1e-9
    for layer in layers:
        kept = plan.kept[layer.name]
        assert kept == layer.size or kept % round_to == 0
        assert kept >= 1
    if scope != "layer":
        assert all(plan.kept[x.name] >= floor_of(x, floor, plan.rate) for x in layers)


def test_round_to_counts_units_by_their_mean_score():
    coupling = chain([4, 4])
    scores = {"l1": torch.tensor([0.0, 9.0, 5.0, 6.0]), "l2": torch.tensor([2.0, 2.0, 7.0, 7.0])}
    plan = select(coupling, prunable(coupling), scores, Budget(rate=0.25), Limits(floor=0.0, round_to=2))
    # {0, 5} costs 2.5, {2, 2} costs 2: the single cheapest channel stays
    assert plan.masks["l1"].tolist() == [True] * 4
    assert plan.masks["l2"].tolist() == [False, False, True, True]


kinds = st.sampled_from(["macs", "params", "bytes"])


@settings(max_examples=80, deadline=None)
@given(
    problems(), kinds, st.floats(0.05, 1), st.booleans(), floors, roundings, st.sampled_from(["calibrated", "global"])
)
def test_costs_stay_within_their_budget_and_no_step_is_wasted(problem, kind, share, absolute, floor, round_to, scope):
    coupling, layers, _ = problem
    dense = getattr(count(coupling), kind)
    absolute = absolute and share * dense > 1
    allowed = math.ceil(share * dense) if absolute else share * dense
    limits = Limits(scope, floor, round_to)
    plan = plan_or_none(problem, Budget(**{kind: allowed if absolute else share}), limits)
    if plan is None:
        # even the longest cut is too dear: what a rate reaches costs more
        for r in range(total(layers)):
            cut = plan_or_none(problem, Budget(rate=r / total(layers)), limits)
            assert cut is None or getattr(count(coupling, cut.kept), kind) > allowed
        return
    spent = getattr(count(coupling, plan.kept), kind)
    assert spent <= allowed
    # a shorter cut that costs no more than allowed would be the plan of what it costs
    for between in range(max(spent, 2), math.floor(allowed) + 1, max(1, (math.floor(allowed) - spent) // 20)):
        assert gone(plan_or_none(problem, Budget(**{kind: float(between)}), limits)) == gone(plan)


@settings(max_examples=60, deadline=None)
@given(problems(), kinds, st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)), floors, roundings)
def test_a_tighter_budget_removes_a_superset(problem, kind, pair, floor, round_to):
    tight, wide = (
        plan_or_none(problem, Budget(**{kind: share}), Limits("calibrated", floor, round_to)) for share in sorted(pair)
    )
    if tight is not None:
        assert all(not (tight.masks[name] & ~mask).any() for name, mask in wide.masks.items())


def test_what_frees_more_for_its_price_goes_first():
    """A channel of l1 frees 3 x 1 + 4 x 2 MACs, one of l2 frees 4 x 2 + 2 x 3: the ratio of scores decides."""
    coupling = chain([4, 4])
    freed = {"l1": 11, "l2": 14}
    for worth in (1.2, 1.35):
        scores = {"l1": torch.tensor([1.0, 50, 50, 50]), "l2": torch.tensor([worth, 50, 50, 50])}
        plan = select(coupling, prunable(coupling), scores, Budget(macs=0.99), Limits(floor=0.0))
        cheapest = min(freed, key=lambda name: float(scores[name][0]) / freed[name])
        assert plan.kept == {"l1": 4, "l2": 4} | {cheapest: 3}
    by_rate = select(coupling, prunable(coupling), scores, Budget(rate=1 / 8), Limits(floor=0.0))
    assert by_rate.kept == {"l1": 3, "l2": 4}


@settings(max_examples=40, deadline=None)
@given(problems(), st.floats(0.05, 1))
def test_cost_budgets_in_layer_scope(problem, share):
    coupling, layers, scores = problem
    plan = plan_or_none(problem, Budget(macs=share), Limits("layer"))
    if plan is None:
        one_each = dict.fromkeys((x.name for x in layers), 1)
        assert count(coupling, one_each).macs > share * count(coupling).macs
        return
    assert count(coupling, plan.kept).macs <= share * count(coupling).macs
    rates = {k / x.size for x in layers for k in range(x.size + 1)}  # where a layer loses one more
    for rate in rates:
        other = select(coupling, layers, scores, Budget(rate=rate), Limits("layer"))
        if gone(other) < gone(plan):
            assert count(coupling, other.kept).macs > share * count(coupling).macs


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("budget", [Budget(rate=0.0), Budget(macs=1.0), Budget(params=1.0)])
@pytest.mark.parametrize("round_to", [1, 4])
def test_nothing_to_remove(scope, budget, round_to):
    coupling = chain([6, 3])
    scores = {"l1": torch.arange(6.0), "l2": torch.arange(3.0)}
    plan = select(coupling, prunable(coupling), scores, budget, Limits(scope, round_to=round_to))
    assert plan.kept == {"l1": 6, "l2": 3}
    assert plan.rate == 0.0


def test_floor_at_the_achieved_rate_by_hand():
    # l1 is worthless: it stops at ceil(0.5 * (1 - R) * 10) while l2 pays for the rest.
    coupling = chain([10, 10])
    scores = {"l1": torch.arange(10.0), "l2": 100 + torch.arange(10.0)}
    kept = [
        select(coupling, prunable(coupling), scores, Budget(rate=r), Limits(floor=0.5)).kept
        for r in (0.2, 0.3, 0.4, 0.5)
    ]
    assert kept == [{"l1": 6, "l2": 10}, {"l1": 4, "l2": 10}, {"l1": 3, "l2": 9}, {"l1": 3, "l2": 7}]


def infeasible(budget, limits=Limits()):  # noqa: B008 - frozen
    coupling = chain([4, 30])
    scores = {"l1": torch.arange(4.0), "l2": torch.arange(30.0)}
    with pytest.raises(BudgetError) as caught:
        select(coupling, prunable(coupling), scores, budget, limits)
    return str(caught.value)


def test_infeasible_budgets_name_the_layers_and_what_can_be_had():
    assert infeasible(Budget(rate=0.99)) == (
        "rate 0.99 is out of reach: the floors allow at most 0.941; "
        "binding layers: l1 keeps 1, l2 keeps 1; lower prune.floor"
    )
    # positions 1, 2, 3: one channel each leaves 1*3 + 2*1 + 3*2 MACs and 4 + 2 + 4 parameters
    assert "macs 5 is out of reach: the floors allow at least 11 (0.025 of" in infeasible(Budget(macs=5))
    assert "params 5 is out of reach: the floors allow at least 10 (" in infeasible(Budget(params=5))
    assert "binding layers: l1 keeps 1, l2 keeps 1" in infeasible(Budget(macs=0.01), Limits("layer"))


def test_protected_and_frozen_layers_stay_out():
    coupling = chain([4, 5, 6, 7], frozen=[2])
    names = [layer.name for layer in prunable(coupling)]
    assert names == ["l1", "l3", "l4"]
    assert [layer.name for layer in prunable(coupling, ["l3"])] == ["l1", "l4"]
    assert [layer.name for layer in prunable(coupling, ["l[14]", "other.*"])] == ["l3"]
    assert [layer.name for layer in prunable(coupling, ["L1", "l", "l1.weight"])] == names


def test_protection_reaches_every_producer_of_a_stream():
    index = torch.arange(4)[:, None]
    stream = ChannelLayer(
        "stem", tuple(CoupledSlice(f"{n}.weight", 0, Role.PRODUCER, index) for n in ("stem", "block.conv2"))
    )
    reader = ChannelLayer(
        "block.conv1",
        (
            CoupledSlice("block.conv1.weight", 0, Role.PRODUCER, index),
            CoupledSlice("fc.weight", 1, Role.CONSUMER, index),
        ),
    )
    coupling = Coupling((stream, reader), (), {})
    assert prunable(coupling, ["block.conv2"]) == (reader,)
    assert prunable(coupling, ["fc"]) == (stream, reader)  # a reader's protection is of its own outputs
    assert prunable(coupling, ["block.*1"]) == (stream,)


def test_nothing_prunable_is_an_error():
    with pytest.raises(BudgetError, match="nothing to prune: every layer is protected or frozen"):
        prunable(chain([4, 5]), ["l*"])
    with pytest.raises(BudgetError, match="nothing to prune"):
        prunable(chain([4], frozen=[1]))


def test_plan_counts():
    plan = PruningPlan({"a": torch.tensor([True, False, True, True]), "b": torch.tensor([False])})
    assert plan.kept == {"a": 3, "b": 0}
    assert plan.rate == pytest.approx(0.4)
    assert PruningPlan({}).rate == 0.0


def test_rounding_that_forbids_the_rate_is_told():
    coupling = chain([8, 8])
    scores = {layer.name: torch.arange(8, dtype=torch.float64) for layer in coupling.prunable}
    with pytest.raises(BudgetError, match=r"rate 0\.9 is out of reach.*lower prune\.floor or prune\.round_to"):
        select(coupling, coupling.prunable, scores, Budget(rate=0.9), Limits(round_to=8))


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(0, 0.9), rates, scopes, roundings)
def test_layers_with_a_rate_of_their_own(problem, own, rate, scope, round_to):
    _, layers, _ = problem
    limits = Limits(scope, 0.0, round_to, {"l1": own, "*": 0.0} if rate < 0.1 else {"l1": own})
    plan = plan_or_none(problem, Budget(rate=rate), limits)
    least = layers[0].size - limits.width(layers[0], own)
    if plan is None:  # too much asked of the others, or less than l1 loses already
        wanted = math.floor(rate * total(layers) + 1e-9)
        others = 0 if rate < 0.1 else sum(x.size - 1 for x in layers[1:])
        assert scope != "layer"
        assert not least <= wanted <= least + others or round_to > 1
        return
    assert plan.kept["l1"] == layers[0].size - least
    if rate < 0.1:
        assert all(plan.kept[x.name] == x.size for x in layers[1:])
    elif scope != "layer" and round_to == 1:
        assert gone(plan) == math.floor(rate * total(layers) + 1e-9)


def test_rates_of_layers_by_hand():
    coupling = chain([10, 10, 10])
    scores = {f"l{i}": i * 100 + torch.arange(10.0) for i in (1, 2, 3)}
    limits = Limits(floor=0.0, per_layer={"l3": 0.45, "l[23]": 0.9})
    plan = select(coupling, prunable(coupling), scores, Budget(rate=0.5), limits)
    assert plan.kept == {"l1": 8, "l2": 1, "l3": 6}  # the first pattern counts
    plan = select(coupling, prunable(coupling), scores, Budget(macs=0.5), Limits(floor=0.0, per_layer={"l1": 0.0}))
    assert plan.kept["l1"] == 10
    assert count(coupling, plan.kept).macs <= 0.5 * count(coupling).macs
    with pytest.raises(BudgetError, match=r"rate 0\.2 is out of reach: prune\.per_layer alone removes 0\.300"):
        select(coupling, prunable(coupling), scores, Budget(rate=0.2), Limits(per_layer={"l2": 0.9}))
