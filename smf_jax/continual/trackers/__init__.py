"""Experiment trackers, by the word of ``--track`` that asks for one; each is a file of its own."""

from __future__ import annotations

from smf_jax.continual.trackers.tensorboard import TensorBoard
from smf_jax.continual.trackers.tracker import Tracker
from smf_jax.continual.trackers.trackio import Trackio
from smf_jax.continual.trackers.wandb import Wandb

TRACKERS: dict[str, type[Tracker]] = {each.name: each for each in (TensorBoard, Trackio, Wandb)}
