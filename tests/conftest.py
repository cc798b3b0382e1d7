"""One thread: small tensors are slower on more, and a busy machine makes it forty times so."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
