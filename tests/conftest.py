"""Settings that every test shares."""

import gc

import torch

from support.fast_configs import remember_configs
from support.fast_python import FastPython

# The suite runs in one process per core (pytest -n); threads that wait for each other across them
# cost ten times the work.
torch.set_num_threads(1)
remember_configs()


def pytest_configure(config):
    if not hasattr(config, 'workerinput'):  # once for all workers
        config.add_cleanup(FastPython().stop)


def pytest_collection_finish():
    gc.freeze()  # half a million objects of imported modules need no search for garbage
