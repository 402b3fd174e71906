"""Kernels in C++ for what XLA's CPU backend is slow at: ranking and sorting."""
