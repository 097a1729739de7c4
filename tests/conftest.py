"""Settings that every test shares."""

import torch

# The suite runs in one process per core (pytest -n); threads that wait for each other across them
# cost ten times the work.
torch.set_num_threads(1)
