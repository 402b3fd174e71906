"""Sparse memory finetuning in JAX: product-key memory whose rows learn a few facts at a time."""

__version__ = "0.1.0"
