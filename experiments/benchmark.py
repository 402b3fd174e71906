"""Another name of ``python -m benchmarks``, beside the other commands."""

from benchmarks.__main__ import command

if __name__ == "__main__":
    command()
