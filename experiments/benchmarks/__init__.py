"""What `experiments.benchmark` measures: harness, machine, costs, results, and a file a suite."""
