import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infprune.coupling.labels import FIXED, Labels, compact

SIZE = 12  # labels 0 (FIXED) .. 12

label = st.integers(0, SIZE)
pairs = st.lists(st.tuples(label, label), min_size=1, max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("union"), pairs), st.tuples(st.just("freeze"), st.lists(label, min_size=1, max_size=3))
    ),
    max_size=8,
)


class Naive:
    """Sets of labels; FIXED stays alone, what meets it is frozen."""

    def __init__(self):
        self.classes = {i: {i} for i in range(SIZE + 1)}
        self.frozen = []

    def union(self, pairs, reason):
        for a, b in pairs:
            if FIXED in (a, b):
                self.freeze([a, b], reason)
            elif self.classes[a] is not self.classes[b]:
                merged = self.classes[a] | self.classes[b]
                for member in merged:
                    self.classes[member] = merged

    def freeze(self, labels, reason):
        self.frozen += [(i, reason) for i in labels if i != FIXED]

    def find(self, i):
        return min(self.classes[i])

    def reasons(self):
        found = {}
        for i, reason in self.frozen:
            found.setdefault(self.find(i), reason)
        return found


@settings(max_examples=100, deadline=None)
@given(steps)
def test_matches_a_naive_implementation(steps):
    labels, naive = Labels(), Naive()
    assert labels.fresh(SIZE).tolist() == list(range(1, SIZE + 1))
    for number, (kind, content) in enumerate(steps):
        reason = f"step {number}"
        if kind == "union":
            a, b = torch.tensor(content).T
            labels.union(a, b, reason)
            naive.union(content, reason)
        else:
            labels.freeze(torch.tensor(content), reason)
            naive.freeze(content, reason)
    everything = torch.arange(SIZE + 1)
    assert labels.find(everything).tolist() == [naive.find(i) for i in range(SIZE + 1)]
    assert labels.reasons() == naive.reasons()


def test_a_class_is_named_by_its_smallest_label():
    labels = Labels()
    a = labels.fresh(3)
    b = labels.fresh(3)
    labels.union(b, a, "")
    assert labels.find(b).tolist() == [1, 2, 3]
    assert labels.find(labels.fresh(2)).tolist() == [7, 8]  # new labels after a union are classes of their own


def test_one_union_joins_chains_in_any_order():
    labels = Labels()
    labels.fresh(6)
    labels.union(torch.tensor([5, 6, 3, 2]), torch.tensor([4, 5, 6, 6]), "")
    assert labels.find(torch.arange(7)).tolist() == [0, 1, 2, 2, 2, 2, 2]


def test_fixed_is_never_merged_and_freezes_what_it_meets():
    labels = Labels()
    a = labels.fresh(4)
    labels.union(a[:2], torch.tensor([FIXED, FIXED]), "padding")
    assert labels.find(a).tolist() == a.tolist()
    assert labels.reasons() == {1: "padding", 2: "padding"}
    labels.union(torch.tensor([FIXED]), torch.tensor([FIXED]), "nothing")
    labels.freeze(torch.tensor([FIXED]), "nothing")
    assert labels.find(torch.tensor([FIXED])).tolist() == [FIXED]
    assert labels.reasons() == {1: "padding", 2: "padding"}


def test_the_first_reason_of_a_class_stays_and_reaches_labels_merged_later():
    labels = Labels()
    a = labels.fresh(3)
    labels.freeze(a[2:], "first")
    labels.freeze(a[:1], "second")
    labels.union(a[:1], a[2:], "merged")
    assert labels.reasons() == {1: "first"}


shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(shapes, st.data())
def test_compact_expands_back_and_varies_sees_values(shape, data):
    repeated = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    small = [1 if r else s for s, r in zip(shape, repeated, strict=True)]
    values = data.draw(
        st.lists(st.integers(0, 1), min_size=torch.Size(small).numel(), max_size=torch.Size(small).numel())
    )
    labels = torch.tensor(values).reshape(small).expand(shape)
    dense = labels.clone(memory_format=torch.contiguous_format)
    classes = Labels()
    classes.fresh(1)
    assert torch.equal(compact(labels).expand(shape), dense)
    assert compact(labels).numel() <= torch.Size(small).numel()
    for dim in range(len(shape)):
        truth = any(not torch.equal(row, dense.select(dim, 0)) for row in dense.unbind(dim))
        assert classes.varies(labels, dim) == classes.varies(dense, dim) == truth
