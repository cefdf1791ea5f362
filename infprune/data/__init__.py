"""Datasets: one family per file; ``splits.load`` takes a name from here or a ``pkg.mod:factory``."""

from collections.abc import Callable

from infprune.data.backdoor import digits_backdoor, mnist_backdoor
from infprune.data.breast_cancer import breast_cancer
from infprune.data.dataset import DataRequest, Source
from infprune.data.digits import digits
from infprune.data.image_folder import image_folder
from infprune.data.libsvm import libsvm
from infprune.data.torchvision_sets import cifar10, cifar100, fashion_mnist, mnist

DATASETS: dict[str, Callable[[DataRequest], Source]] = {
    "digits": digits,
    "breast_cancer": breast_cancer,
    "mnist": mnist,
    "digits_backdoor": digits_backdoor,
    "mnist_backdoor": mnist_backdoor,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "image_folder": image_folder,
    "libsvm": libsvm,
}
