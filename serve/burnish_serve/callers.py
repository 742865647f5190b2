"""Several callers of one session: batches side by side, each computed by one thread.

A batch of short texts is too little work to be shared by threads, which then wait for each other in each of some
hundred nodes. Where there are several batches, each thread takes one of its own (bench/LOG.md).

>>> callers = Callers(lambda: create_session("model.onnx", threads=1), 2)  # doctest: +SKIP
>>> list(callers.map(lambda session, feed: session.run(None, feed), feeds))  # doctest: +SKIP
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from burnish_serve.session import Session

T = TypeVar("T")
Found = TypeVar("Found")


class Callers:
    """Threads that call a session, which is made when they are first needed.

    Args:
        make: returns the session, of one thread a run.
        count: how many threads.
    """

    def __init__(self, make: Callable[[], Session], count: int) -> None:
        self._make = make
        self._count = count
        self._lock = threading.Lock()
        self._ready: tuple[Session, ThreadPoolExecutor] | None = None

    def map(self, function: Callable[[Session, T], Found], items: Iterable[T]) -> Iterator[Found]:
        """Yield ``function(session, item)`` for each item, in order, computed side by side."""
        with self._lock:
            if self._ready is None:
                self._ready = self._make(), ThreadPoolExecutor(self._count, thread_name_prefix="burnish")
            session, pool = self._ready
        return pool.map(functools.partial(function, session), items)
