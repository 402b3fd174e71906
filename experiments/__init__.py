"""The commands, one file each (`python -m experiments.NAME --help`), and what they share."""
