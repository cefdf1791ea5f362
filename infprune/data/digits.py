"""The 1,797 handwritten 8x8 digits that scikit-learn ships: the default data, no download."""

import torch

from infprune.data.dataset import ArrayDataset, DataRequest, Source
from infprune.data.holdout import holdout

# Constants, not settings: the shipped weights must never have seen a row of the test part.
TEST_SHARE = 0.2
TEST_SEED = 0


def digits(request: DataRequest) -> Source:
    """Return x (N, 1, 8, 8) in [0, 1] and ten classes, 1,438 rows to train and 359 to test, stratified."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - two seconds that other datasets need not pay

    request.options()
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).to(torch.float32).unsqueeze(1) / 16
    y = torch.from_numpy(bunch.target).to(torch.int64)
    train, test = holdout(y, TEST_SHARE, TEST_SEED)
    return Source(ArrayDataset(x[train], y[train]), ArrayDataset(x[test], y[test]), 10, (1, 8, 8))
