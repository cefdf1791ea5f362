"""What the commands import when they run, imported beforehand: forks of this process then start at once."""

import importlib
import pkgutil

import matplotlib.pyplot  # noqa: F401, ICN001
import sklearn.datasets  # noqa: F401
import torch.export  # noqa: F401
import torchvision.models
import torchvision.transforms.v2  # noqa: F401

from infprune import pipeline, report

for package in (pipeline, report):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
