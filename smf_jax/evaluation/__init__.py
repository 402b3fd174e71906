"""Evaluation: exact match of answers, likelihood of text."""
