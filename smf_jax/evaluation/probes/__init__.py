"""Held-out measurements, a file for each way of asking."""
