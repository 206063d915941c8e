"""Benchmarks, run by `make bench`: each figure stands beside a reference that was measured in the same run."""

import os

# Before numpy loads its BLAS: several threads would make FrodoKEM's figures those of the machine's load.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
    os.environ[_name] = "1"
