"""What ``smf serve`` can be told."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass

from smf_jax.configuration import Configuration, part, setting
from smf_jax.taught.config import TrainingSection

TOKEN_VARIABLE = "SMF_SERVE_TOKEN"
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class LimitsSection(Configuration):
    """What is refused, so that no client takes more than its share."""

    queue: int = setting(256, "prompts that wait at most; more are told to come back", least=1)
    batch_rows: int = setting(8, "prompts of one set of patches that run together", least=1)
    max_tokens: int = setting(1024, "tokens of an answer at most", first=True, least=1)
    max_body: int = setting(1_000_000, "bytes of a request at most", least=1000, most=10**9)
    connections: int = setting(256, "connections at once at most", least=1)


@dataclass(frozen=True)
class ServeConfig(Configuration):
    """What ``smf serve`` is told."""

    arguments: tuple[str, ...] = ()  # DIR
    host: str = setting(
        "127.0.0.1",
        f"address to listen at; one that other machines reach needs a token in {TOKEN_VARIABLE}",
        heading="Server",
        first=True,
    )
    port: int = setting(
        8000, "port; 0 takes a free one", heading="Server", first=True, least=0, most=65535
    )
    read_only: bool = setting(
        False, "the page neither teaches nor takes back", heading="Server", first=True
    )
    limits: LimitsSection = part(LimitsSection(), "Limits")
    training: TrainingSection = part(TrainingSection(), "How the page teaches")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_token(config: ServeConfig) -> str:
    """The token that requests must bring, empty for none, from the environment.

    A ValueError where one is needed and missing, or too short to be a secret.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token and not config.is_loopback:
        raise ValueError(
            f"--host={config.host} is reached by other machines: put a token that requests must "
            f"bring into the environment, {TOKEN_VARIABLE}=$(openssl rand -hex 16), or leave the "
            "flag out"
        )
    if token and (len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ValueError(
            f"{TOKEN_VARIABLE} has {len(token)} characters; expected {_SHORTEST_TOKEN} or more, "
            "printable ASCII: openssl rand -hex 16"
        )
    return token
