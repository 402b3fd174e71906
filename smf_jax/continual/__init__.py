"""The engine: a stream of tasks, many trials of methods on it, and what they leave on disk."""
