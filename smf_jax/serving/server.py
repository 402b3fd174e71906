"""Running a server until it is stopped."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from smf_jax.progress import say
from smf_jax.serving.app import make_app
from smf_jax.serving.config import ServeConfig, read_token
from smf_jax.serving.served_models import ServedModels
from smf_jax.serving.worker import Worker
from smf_jax.taught.directory import TaughtDirectory

_WAITING = 128  # connections that are not taken yet
_CLOSING = 3  # seconds that answers have to end in once the server is stopped


class Server:
    """A taught model that listens; nothing is answered before `run`."""

    def __init__(self, config: ServeConfig) -> None:
        """Reads and checks the model, and takes the port.

        A ValueError, a FileNotFoundError or an OSError tells what is amiss.
        """
        if len(config.arguments) != 1:
            told = f"{len(config.arguments)} arguments given, expected DIR: smf serve DIR"
            raise ValueError(told)
        token, directory = read_token(config), TaughtDirectory(config.arguments[0])
        directory.require()
        self._socket = _listen(config.host, config.port)
        try:
            self.models = models = ServedModels(directory)
        except BaseException:
            self._socket.close()
            raise
        self.worker = Worker(models.base, config.limits.batch_rows, config.limits.queue)
        app = make_app(config, models, self.worker, token)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=config.limits.connections,
                timeout_graceful_shutdown=_CLOSING,
            )
        )
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"

    def run(self) -> None:
        """Answers until the process is told to stop, or another thread calls `stop`."""
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self.worker.close()
            self._socket.close()

    def stop(self) -> None:
        """Ends `run` once what is being answered is done, or after a moment."""
        self._server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(_WAITING)  # whoever connects before `run` waits, and is not refused
    except OSError as error:
        found.close()
        raise OSError(f"--host={host}, --port={port}: {error.strerror}; choose another") from None
    return found


def serve(config: ServeConfig) -> None:
    """Says where the page is, and serves it."""
    server = Server(config)
    say(f"{server.url}/ is the page, {server.url}/v1 answers as OpenAI's interface does")
    say(f"models: {', '.join(server.models.names())}; Ctrl-C ends")
    server.run()
