"""The process: it lives at once, is ready when its models are, and ends with what it accepted answered.

SIGTERM and SIGINT: not ready any more; what was sent is answered, then the listener closes and the process ends with
status 0. A second signal ends it at once. SIGHUP: all bundles are opened again, beside those that answer, which stay
where a new one is bad.

>>> serve(["bundle/"], ServeConfig())  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from burnish_serve.http.tracing import traced

logger = logging.getLogger("burnish.serve")
# Seconds in which requests that were sent before the signal, and not read yet, still come in.
GRACE = 0.5
KILLED = 1
# Seconds that a connection stays without a request: more than the 60 of proxies, who would else send into a closed one.
KEEP_ALIVE = 75
# Seconds that a batch's thread keeps Python's lock from whom a request wakes; a tenth of Python's own.
SWITCH = 0.0005


class Server(uvicorn.Server):
    """uvicorn's server, with our way to end and to begin again.

    Args:
        config: uvicorn's.
        app: what answers.
        waits: whether to listen only when the models are ready, as a worker beside others does.
        loaded: is called when they are.
    """

    def __init__(
        self, config: uvicorn.Config, app: App, *, waits: bool = False, loaded: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(config)
        self.app = app
        self.admin: tuple[uvicorn.Server, list[socket.socket] | None] | None = None
        self.problem: BurnishError | None = None
        self._waits = waits
        self._loaded = loaded
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and load the models meanwhile."""
        if self._waits:
            await self._load()
        if self.problem is not None:
            return
        await super().startup(sockets)
        if self.admin is not None:
            admin, own = self.admin
            admin.config.load()
            admin.lifespan = admin.config.lifespan_class(admin.config)
            await admin.startup(own)
        if not self._waits:
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
        if self.admin is not None:
            await self.admin[0].shutdown(self.admin[1])

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
                self.app.metrics.ready.labels(model.name).set(1)  # also where another worker is asked for the figures
                logger.info("%s is ready", model.name)
            settle()
            self._loaded()
        except BurnishError as error:
            self.problem = error
            self.should_exit = True

    async def reload(self) -> dict[str, str | None]:
        """Load all models again; one that is bad leaves the one before. Return why, or None, by name."""
        problems: dict[str, str | None] = {}
        for model in self.app.models.values():
            try:
                await model.load()
                settle()
                problems[model.name] = None
                logger.info("%s was replaced", model.name)
            except BurnishError as error:
                problems[model.name] = str(error)
                logger.error("%s was not replaced: %s", model.name, error)
        return problems

    async def _reload(self) -> None:
        await self.reload()

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def settle() -> None:
    """Take what stands now out of Python's search for garbage, which stops all requests for as long as it takes.

    What was freed goes back to the system: a bundle that was replaced leaves holes, which glibc keeps.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def serve(
    bundles: Sequence[str | Path],
    config: ServeConfig,
    *,
    sockets: Sequence[socket.socket] | None = None,
    admin_sockets: Sequence[socket.socket] | None = None,
    waits: bool = False,
    loaded: Callable[[], object] = lambda: None,
    reload: Callable[[], Awaitable[Mapping[str, str | None]]] | None = None,
) -> None:
    """Serve bundles in this process until a signal asks to end.

    Args:
        bundles: folders; each is asked by its folder's name.
        config: where to listen, who may ask, and how much.
        sockets: that listen already, as those that workers share.
        admin_sockets: the same, for the admin port.
        waits: whether to listen only when the models are ready.
        loaded: is called when they are.
        reload: what the admin port's call does in place of loading them again in this process.

    Raises:
        InputError: two bundles have one name, or the address or a file cannot be used.
        MissingExtraError: spans are to be sent, and OpenTelemetry is not installed.
        BurnishError: a bundle is damaged, cannot run here, or answers otherwise than where it was made.
    """
    logging.basicConfig(format="burnish: %(message)s", level=logging.INFO)
    logging.getLogger("burnish.access").setLevel(logging.INFO if config.access_log else logging.WARNING)
    metrics = Metrics()
    models = {
        name: Model(name, folder, config, metrics.of(name)) for name, folder in check_folders(bundles, config).items()
    }
    tokens = read_tokens(config.tokens) if config.tokens else None
    app = App(models, config, metrics, tokens)
    server = Server(
        _settings(traced(app) if config.opentelemetry else app, config, config.host, config.port),
        app,
        waits=waits,
        loaded=loaded,
    )
    if config.admin_port is not None:
        admin = App(models, config, metrics, tokens, reload or server.reload)
        settings = _settings(admin, config, config.admin_host, config.admin_port, tls=False)
        server.admin = uvicorn.Server(settings), list(admin_sockets) if admin_sockets else None
    sys.setswitchinterval(SWITCH)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are side by side already
    try:
        server.run(list(sockets) if sockets else None)
    except SystemExit as error:  # uvicorn's way to say that it cannot listen
        raise cannot_listen(config) from error
    if server.problem is not None:
        raise server.problem


def check_folders(bundles: Sequence[str | Path], config: ServeConfig) -> dict[str, Path]:
    """Return the bundles' folders by the names under which they answer; a link is called by its own name.

    Raises:
        InputError: two bundles have one name, or there is no such folder or file.
    """
    folders = {Path(os.path.abspath(folder)).name: Path(folder) for folder in bundles}  # noqa: PTH100  # links stay
    if len(folders) < len(bundles):
        raise InputError("two bundles have the same folder name, by which they would be asked")
    for folder in folders.values():
        if not folder.is_dir():
            raise InputError(f"no such bundle: {folder}")
    for path in (config.tls_certificate, config.tls_key):
        if path is not None and not path.is_file():
            raise InputError(f"no such file: {path}")
    return folders


def cannot_listen(config: ServeConfig) -> InputError:
    """Return what is said where an address cannot be listened at."""
    admin = f" or {config.admin_host}:{config.admin_port}" if config.admin_port is not None else ""
    return InputError(f"cannot listen at {config.host}:{config.port}{admin}: is it in use?")


def _settings(app: Any, config: ServeConfig, host: str, port: int, *, tls: bool = True) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=limited(max_header_bytes=config.max_header_bytes, seconds=config.slow_client),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(config.drain)),
        ssl_certfile=config.tls_certificate if tls else None,
        ssl_keyfile=config.tls_key if tls else None,
    )


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
