"""The configurations of the engine's commands: their sections, and what holds between these."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass, replace
from typing import Any

from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.bases.sections import PresetConfig
from smf_jax.configuration import Configuration, part
from smf_jax.continual.devices import DeviceConfig
from smf_jax.continual.launch import LaunchConfig
from smf_jax.continual.methods import METHODS
from smf_jax.continual.sections import (
    BackgroundConfig,
    BaseConfig,
    GridConfig,
    ProbeConfig,
    QuestionDataConfig,
    RunConfig,
    StreamConfig,
    TrainingConfig,
)

# The settings of every method, each a section under the method's name.
MethodsConfig: Any = make_dataclass(
    "MethodsConfig",
    [
        (name, method.config, part(method.config(), f"Method {name}: {method.about}"))
        for name, method in METHODS.items()
    ],
    bases=(Configuration,),
    frozen=True,
)


@dataclass(frozen=True)
class SweepConfig(Configuration):
    """What a sweep is told."""

    preset: PresetConfig = part(PresetConfig(), "Preset")
    grid: GridConfig = part(GridConfig(), "Grid")
    base: BaseConfig = part(BaseConfig(), "Base")
    stream: StreamConfig = part(StreamConfig(), "Stream")
    data: QuestionDataConfig = part(QuestionDataConfig(), "Data sets")
    background: BackgroundConfig = part(BackgroundConfig(), "Background")
    probes: ProbeConfig = part(ProbeConfig(), "Probes")
    retrofit: RetrofitConfig = part(RetrofitConfig(), "Retrofit")
    training: TrainingConfig = part(TrainingConfig(), "Training")
    methods: Any = part(MethodsConfig())
    devices: DeviceConfig = part(DeviceConfig(), "Devices")
    run: RunConfig = part(RunConfig(), "Output")
    launch: LaunchConfig = part(LaunchConfig(), "Machines")

    def __post_init__(self) -> None:
        if self.probes.probe_limit < 1:
            raise ValueError(f"--probe_limit={self.probes.probe_limit}: expected at least 1")
        if self.launch.launcher == "none":
            return
        if self.grid.shard != "0/1":
            raise ValueError(f"--shard={self.grid.shard}: --launcher deals shares; leave it out")
        if self.run.overwrite:
            raise ValueError("--overwrite=True: jobs replace no run; give another --out")

    def resolved(self) -> SweepConfig:
        """The same with every setting told; see `RetrofitConfig.resolved`."""
        return replace(self, retrofit=self.retrofit.resolved())

    def own(self, method: str) -> Any:
        """The settings of a method."""
        return getattr(self.methods, method)
