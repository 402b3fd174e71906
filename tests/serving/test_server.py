"""Starting a server: what is refused, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from smf_jax.serving.config import ServeConfig
from smf_jax.serving.server import Server

ROOT = Path(__file__).resolve().parents[2]


def refused(*arguments: object, **flags) -> str:
    config = replace(ServeConfig.of(**flags), arguments=tuple(map(str, arguments)))
    with pytest.raises((ValueError, OSError)) as error:
        Server(config)
    return str(error.value)


def test_what_cannot_be_served_is_refused(taught, tmp_path, monkeypatch):
    monkeypatch.delenv("SMF_SERVE_TOKEN", raising=False)
    assert "expected DIR: smf serve DIR" in refused()
    assert "no such directory" in refused(tmp_path / "nothing")
    assert "is no taught model" in refused(tmp_path)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        assert f"--host={host} is reached by other machines" in refused(taught, host=host)
    monkeypatch.setenv("SMF_SERVE_TOKEN", "short")
    assert "SMF_SERVE_TOKEN has 5 characters; expected 16" in refused(taught)
    monkeypatch.delenv("SMF_SERVE_TOKEN")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port={port}: Address already in use" in refused(taught, port=port)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "::1"])
def test_loopback_needs_no_token(host):
    assert ServeConfig.of(host=host).is_loopback


def test_a_process_serves_until_it_is_told_to_stop(taught):
    command = [sys.executable, "-m", "smf_jax", "serve", str(taught), "--port=0", "--read_only"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        line = server.stdout.readline()
        url = line.partition("/ is the page")[0]
        assert url.startswith("http://127.0.0.1:"), (line, server.stderr.read())
        assert "models: base, taught, base+facts, base+facts_01" in server.stdout.readline()
        assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 128 + signal.SIGTERM
        assert server.stderr.read().strip().startswith("stopped by SIGTERM")
