"""Benchmarks, a file for each subject."""

import experiments  # noqa: F401  Answers signals from here on.
