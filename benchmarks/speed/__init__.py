"""Timings of adlib beside other forms of the same computation. OpenMP reads these when torch is loaded."""

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads that spin slow everything that shares the machine
os.environ.setdefault("OMP_NUM_THREADS", "2")
