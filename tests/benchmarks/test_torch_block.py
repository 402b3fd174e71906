"""PyTorch's block is this one; and nothing of JAX is imported for it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import torch_block
from benchmarks.block import LEARNING_RATE, make_block, random_table
from benchmarks.step import sizes_of
from benchmarks.torch_block import TorchBlock
from tests.benchmarks.tiny import shape

SHAPE = shape(keys=16)


def test_its_module_brings_no_jax():
    code = "import sys, benchmarks.torch_block; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sizes_are_those_of_the_block():
    assert sizes_of(SHAPE) == (256, 16, 8, 2, 4, 8)


@pytest.fixture
def blocks():
    if not torch_block.is_installed():
        pytest.skip("torch is not installed: pip install .[parity]")
    given, table = make_block(SHAPE), random_table(SHAPE.slots, 8, "float32")
    inputs = [(x[0], upstream[0]) for x, upstream in given.inputs]
    theirs = TorchBlock(
        sizes_of(SHAPE), np.array(table), given.params, inputs, LEARNING_RATE, threads=1
    )
    return given, table, theirs


def test_both_blocks_give_the_same(blocks):
    given, table, theirs = blocks
    for number, (x, _) in enumerate(given.inputs):
        expected = given.layer.apply({"params": given.params}, x, table)[0]
        np.testing.assert_allclose(theirs.output(number).detach(), expected, atol=1e-5)


def test_a_step_moves_the_rows_that_were_read_against_their_gradient(blocks):
    given, table, theirs = blocks
    x, upstream = given.inputs[0]
    before = np.sum(np.asarray(given.layer.apply({"params": given.params}, x, table)) * upstream)
    theirs(0)
    moved = np.any(theirs.bag.weight.detach().numpy() != np.asarray(table), axis=1)
    assert 0 < moved.sum() < SHAPE.slots
    assert np.sum(theirs.output(0).detach().numpy() * np.asarray(upstream)[0]) < before
