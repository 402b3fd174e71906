"""Sparse updates: usage counts, slot selection, row gradients, row-lazy optimizers, patches."""
