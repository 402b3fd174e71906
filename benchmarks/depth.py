"""Suite ``depth``: compiling a step of each method, over the depth of the model; nothing is run.

The shape is SmolLM2-135M's, the batch 32 short sequences. Seconds have to grow with the depth, and
not with its square, whatever a step makes sure of before it writes.
"""

from benchmarks import models
from benchmarks.flags import BenchmarkConfig
from benchmarks.report import Entry, Report
from benchmarks.train import SMOLLM, batches_for

SUITE = "depth"
DEPTHS = (2, 8, 16, 30, 32)
_SLOTS = 16_384


def run(flags: BenchmarkConfig, report: Report) -> None:
    """Compiles the step of every method at every depth."""
    for layers in DEPTHS:
        config = models.smollm(min(_SLOTS, max(flags.slots())), flags.scale, layers)
        batches = batches_for(SMOLLM, config, flags.scale, 1)
        for method in models.ALL_METHODS:
            program, _ = models.compile_step(method, config, batches, flags.budget)
            setting = {"method": method, "layers": config.layers, "tokens": batches[0].tokens.size}
            report.add(Entry(SUITE, "compiled step", setting, program=program))
