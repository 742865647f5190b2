"""Several processes that share a port: for more cores than one process of Python keeps busy.

The parent listens and computes nothing. Each worker has the bundles in its own memory, takes connections when its
models are ready, and is started again where it dies. Signals go to all of them.

>>> run(["bundle/"], ServeConfig(workers=2))  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import multiprocess

from burnish_serve.errors import BurnishError
from burnish_serve.http.config import ServeConfig
from burnish_serve.http.metrics import SHARED
from burnish_serve.http.server import KILLED, cannot_listen, check_folders, serve

logger = logging.getLogger("burnish.serve")
# Seconds between two looks at signals.
PAUSE = 0.2


def run(bundles: Sequence[str | Path], config: ServeConfig) -> None:
    """Serve bundles, in as many processes as there are to be, until a signal asks to end; see `server.serve`."""
    if config.workers == 1:
        serve(bundles, config)
        return
    logging.basicConfig(format="burnish: %(message)s", level=logging.INFO)
    check_folders(bundles, config)
    sockets = [_listen(config, config.host, config.port)]
    admin = [_listen(config, config.admin_host, config.admin_port)] if config.admin_port is not None else []
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        os.environ[SHARED] = folder
        try:
            Workers(bundles, config, sockets, admin).run()
        finally:
            del os.environ[SHARED]
            for each in (*sockets, *admin):
                each.close()


class Workers:
    """The processes.

    Args:
        bundles: folders.
        config: what each serves by.
        sockets: that all listen at.
        admin: the same, for the admin port.
    """

    def __init__(
        self,
        bundles: Sequence[str | Path],
        config: ServeConfig,
        sockets: Sequence[socket.socket],
        admin: Sequence[socket.socket],
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._given = (list(bundles), config, list(sockets), list(admin))
        self._told = self._context.SimpleQueue()
        self._ready: set[int] = set()
        self._behind: set[int] = set()
        self._signals: list[int] = []
        self._processes: list[Any] = []

    def run(self) -> None:
        """Run until a signal asks to end, or a worker cannot begin.

        Raises:
            BurnishError: what a worker says that cannot begin.
        """
        before = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        problem: BurnishError | None = None
        self._processes = [self._start(waits=number > 0) for number in range(self._given[1].workers)]
        try:
            while problem is None and not {signal.SIGTERM, signal.SIGINT}.intersection(self._signals):
                multiprocessing.connection.wait([each.sentinel for each in self._processes], PAUSE)
                if signal.SIGHUP in self._signals:
                    self._signals.remove(signal.SIGHUP)
                    self._reload()
                problem = self._listen_to() or self._look_after()
            self._send(signal.SIGTERM)
            for each in self._processes:
                each.join()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if problem is not None:
            raise problem

    def _start(self, *, waits: bool) -> Any:
        process = self._context.Process(target=_work, args=(*self._given, waits, self._told))
        process.start()
        return process

    def _listen_to(self) -> BurnishError | None:
        """Take note of workers that are ready; return the problem of one that says so."""
        while not self._told.empty():
            pid, problem = self._told.get()
            if problem is not None:
                return problem  # type: ignore[no-any-return]  # a queue holds anything; ours holds these
            self._ready.add(pid)
            if pid in self._behind:
                self._behind.remove(pid)
                os.kill(pid, signal.SIGHUP)
        return None

    def _reload(self) -> None:
        """Tell all workers to open the bundles again; those that are starting, when they are ready."""
        for each in self._processes:
            if each.pid not in self._ready:
                self._behind.add(each.pid)
            elif each.is_alive():
                os.kill(each.pid, signal.SIGHUP)

    def _look_after(self) -> BurnishError | None:
        """Start workers again that died after they were ready; return a problem where one died before."""
        for place, each in enumerate(self._processes):
            if each.is_alive():
                continue
            multiprocess.mark_process_dead(each.pid)  # type: ignore[no-untyped-call]  # the package has no types there
            if each.pid not in self._ready:
                return self._listen_to() or BurnishError(
                    f"a worker ended with status {each.exitcode} before it was ready"
                )
            logger.error("a worker ended with status %s and is started again", each.exitcode)
            self._processes[place] = self._start(waits=True)
        return None

    def _note(self, number: int, frame: Any) -> None:
        if number != signal.SIGHUP and {signal.SIGTERM, signal.SIGINT}.intersection(self._signals):
            self._send(signal.SIGKILL)
            os._exit(KILLED)
        self._signals.append(number)

    def _send(self, number: int) -> None:
        for each in self._processes:
            if each.is_alive():
                os.kill(each.pid, number)


def _work(
    bundles: list[str | Path],
    config: ServeConfig,
    sockets: list[socket.socket],
    admin: list[socket.socket],
    waits: bool,
    told: Any,
) -> None:
    """Serve as one of several, until the parent says when to end, or has ended itself."""
    os.setpgrp()  # a terminal's signals are the parent's alone, or they would come twice
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parent = os.getppid()

    async def reload() -> Mapping[str, str | None]:
        """Let the parent tell all workers; what comes of it stands in the log."""
        os.kill(parent, signal.SIGHUP)
        return {}

    try:
        serve(
            bundles,
            config,
            sockets=sockets,
            admin_sockets=admin,
            waits=waits,
            loaded=lambda: told.put((os.getpid(), None)),
            reload=reload,
        )
    except BurnishError as error:
        told.put((os.getpid(), error))


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _listen(config: ServeConfig, host: str, port: int | None) -> socket.socket:
    """Return a socket at which connections wait until a worker takes them."""
    settings = uvicorn.Config(None, host=host, port=port or 0, log_config=None)  # type: ignore[arg-type]  # no application: the socket alone is wanted
    try:
        found = settings.bind_socket()
    except SystemExit as error:  # uvicorn's way to say that it cannot
        raise cannot_listen(config) from error
    found.listen(settings.backlog)
    return found
