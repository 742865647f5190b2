"""A fixed piece of work that every run times beside the bundle: by it two runs can be compared.

The same machine is faster on one day than on another; what it does in the time of the reference moves far less. The
work is one matrix product of the size that encoders have, in a session of the bundle's provider and threads.

>>> call = reference(CPU, threads=2)  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from burnish_serve.session import create_session

# y = x w, float32 of any size; tests/test_gate.py makes it again and compares.
PRODUCT = base64.b64decode(
    "CAg6UQoRCgF4CgF3EgF5IgZNYXRNdWwSCXJlZmVyZW5jZVoPCgF4EgoKCAgBEgQKAAoAWg8KAXcSCgoICAESBAoACgBiDwoBeRIKCggIARIECgAKAEIECgAQDQ=="
)
TOKENS, WIDTH, INNER = 512, 384, 1536
PRODUCTS = 10
"""In one call: some 6 GFLOP."""


def reference(provider: str, threads: int) -> Callable[[], object]:
    """Return a call of the fixed work.

    Args:
        provider: ONNX Runtime's name of the execution provider.
        threads: threads of one run.

    Raises:
        DeviceError: the provider does not start.
    """
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        path = Path(folder) / "reference.onnx"
        path.write_bytes(PRODUCT)
        session = create_session(path, provider=provider, threads=threads)
    random = np.random.default_rng(0)
    feed = {
        "x": random.standard_normal((TOKENS, WIDTH), dtype=np.float32),
        "w": random.standard_normal((WIDTH, INNER), dtype=np.float32),
    }
    return lambda: [session.run(None, feed) for _ in range(PRODUCTS)]
