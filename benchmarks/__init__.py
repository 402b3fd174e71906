"""Benchmarks, a file for each subject."""
