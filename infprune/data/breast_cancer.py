"""The 569 breast tumours that scikit-learn ships: 30 measurements of cell nuclei, malignant or benign, no download."""

import torch

from infprune.data.dataset import ArrayDataset, DataRequest, Source
from infprune.data.holdout import holdout

# Constants, not settings: numbers from two runs are of the same test rows.
TEST_SHARE = 0.2
TEST_SEED = 0


def breast_cancer(request: DataRequest) -> Source:
    """Return x (N, 30) and y, 0 malignant and 1 benign, 455 rows to train and 114 to test, stratified.

    Each feature is standardised, (x - mean) / std, by the mean and standard deviation (divisor N) of the 455 rows, the
    later validation rows among them.
    """
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - two seconds that other datasets need not pay

    request.options()
    bunch = load_breast_cancer()
    x, y = torch.from_numpy(bunch.data).to(torch.float64), torch.from_numpy(bunch.target).to(torch.int64)
    train, test = holdout(y, TEST_SHARE, TEST_SEED)
    std, mean = torch.std_mean(x[train], dim=0, correction=0)
    x = (x - mean) / std
    names = tuple(map(str, bunch.feature_names))
    return Source(ArrayDataset(x[train], y[train]), ArrayDataset(x[test], y[test]), 2, (len(names),), names)
