"""Recipes: a file for each paper."""
