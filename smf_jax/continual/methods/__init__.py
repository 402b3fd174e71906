"""The methods of a sweep, a file each; `METHODS` is the list that everything asks."""

from __future__ import annotations

from typing import Any

from smf_jax.continual.methods.ewc import Ewc
from smf_jax.continual.methods.ffn_rows import FfnRows
from smf_jax.continual.methods.full import Full
from smf_jax.continual.methods.kl import Kl
from smf_jax.continual.methods.kl_lora import KlLora
from smf_jax.continual.methods.l2_init import L2Init
from smf_jax.continual.methods.lora import Lora
from smf_jax.continual.methods.method import Method
from smf_jax.continual.methods.olora import OLora
from smf_jax.continual.methods.replay import Replay
from smf_jax.continual.methods.replay_stream import ReplayStream
from smf_jax.continual.methods.shira import Shira
from smf_jax.continual.methods.smf import Smf

METHODS: dict[str, Method[Any]] = {
    method.name: method
    for method in (
        Smf(),
        Full(),
        Lora(),
        Replay(),
        ReplayStream(),
        L2Init(),
        Ewc(),
        Kl(),
        KlLora(),
        OLora(),
        Shira(),
        FfnRows(),
    )
}
