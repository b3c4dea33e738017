"""The paper's networks as plain modules, their stacked weights, and their symmetries."""

import importlib
import pkgutil

from kt.networks import targets

for _module in pkgutil.iter_modules(targets.__path__):
    importlib.import_module(f"{targets.__name__}.{_module.name}")  # it registers its block
