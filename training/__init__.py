"""detectd-train: makes model bundles from a user's recordings."""

import os

# Before numpy and torch are imported: the matrices are small, so threads only cost, and sums must keep their order for
# the same seed to give the same bundle.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
