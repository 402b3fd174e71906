"""A model, its memory and its patches as a directory that others can read."""
