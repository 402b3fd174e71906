"""Bases: the models before a stream, built in, read from elsewhere, or retrofitted."""
