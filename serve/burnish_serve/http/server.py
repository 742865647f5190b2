"""The process: it lives at once, is ready when its models are, and ends with what it accepted answered.

SIGTERM and SIGINT: not ready any more; what was sent is answered, then the listener closes and the process ends with
status 0. A second signal ends it at once. SIGHUP: all bundles are opened again, beside those that answer, which stay
where a new one is bad.

>>> run(["bundle/"], ServeConfig())  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from burnish_serve.errors import BurnishError, InputError
from burnish_serve.http.app import App
from burnish_serve.http.config import ServeConfig
from burnish_serve.http.metrics import Metrics
from burnish_serve.http.model import Model
from burnish_serve.http.protocol import limited

logger = logging.getLogger("burnish.serve")
# Seconds in which requests that were sent before the signal, and not read yet, still come in.
GRACE = 0.5
KILLED = 1


class Server(uvicorn.Server):
    """uvicorn's server, with our way to end and to begin again.

    Args:
        config: uvicorn's.
        app: what answers.
    """

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self.app = app
        self.problem: BurnishError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and load the models meanwhile."""
        await super().startup(sockets)
        self._begin(self._load())
        with contextlib.suppress(NotImplementedError, AttributeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload()))

    async def shutdown(self, sockets: Any = None) -> None:
        """Answer what came before the signal, then close."""
        self.app.ending = True
        if not self.force_exit and self.problem is None:
            await asyncio.sleep(GRACE)
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        for model in self.app.models.values():
            await model.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; the second time, end. uvicorn would note the signal, and die of it when all is done."""
        if self.should_exit:
            os._exit(KILLED)
        self.should_exit = True
        self.app.ending = True

    async def _load(self) -> None:
        """Load all models; the first that is bad ends the server."""
        try:
            for model in self.app.models.values():
                await model.load()
                logger.info("%s is ready", model.name)
        except BurnishError as error:
            self.problem = error
            self.should_exit = True

    async def _reload(self) -> None:
        """Load all models again; one that is bad leaves the one before."""
        for model in self.app.models.values():
            try:
                await model.load()
                logger.info("%s was replaced", model.name)
            except BurnishError as error:
                logger.error("%s was not replaced: %s", model.name, error)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def run(bundles: Sequence[str | Path], config: ServeConfig) -> None:
    """Serve bundles until a signal asks to end.

    Args:
        bundles: folders; each is asked by its folder's name.
        config: where to listen, who may ask, and how much.

    Raises:
        InputError: two bundles have one name, or the address or a file cannot be used.
        BurnishError: a bundle is damaged, cannot run here, or answers otherwise than where it was made.
    """
    metrics = Metrics()
    folders = {Path(folder).resolve().name: Path(folder) for folder in bundles}
    if len(folders) < len(bundles):
        raise InputError("two bundles have the same folder name, by which they would be asked")
    for folder in folders.values():
        if not folder.is_dir():
            raise InputError(f"no such bundle: {folder}")
    for path in (config.tls_certificate, config.tls_key):
        if path is not None and not path.is_file():
            raise InputError(f"no such file: {path}")
    models = {name: Model(name, folder, config, metrics.of(name)) for name, folder in folders.items()}
    app = App(models, config, metrics, read_tokens(config.tokens) if config.tokens else None)
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=limited(max_header_bytes=config.max_header_bytes, seconds=config.slow_client),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(config.drain)),
        ssl_certfile=config.tls_certificate,
        ssl_keyfile=config.tls_key,
    )
    server = Server(settings, app)
    try:
        server.run()
    except SystemExit as error:  # uvicorn's way to say that it cannot listen
        raise InputError(f"cannot listen at {config.host}:{config.port}: is it in use?") from error
    if server.problem is not None:
        raise server.problem


def read_tokens(path: Path) -> list[str]:
    """Return the tokens of a file, one a line.

    Raises:
        InputError: there is no such file, or no token in it.
    """
    try:
        tokens = [line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a file of tokens, one a line, in ASCII") from error
    if not tokens:
        raise InputError(f"{path} holds no token, so nobody could ask")
    return tokens
