"""The page to try a model on: one file, with nothing from any other host, and a policy that lets nothing else in.

>>> content, headers = page()  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path


@functools.cache
def page() -> tuple[bytes, dict[str, str]]:
    """Return the page, and headers by which a browser runs its own style and script, asks us, and does nothing else."""
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    nothing = ("default-src", "base-uri", "form-action", "frame-ancestors")
    rules = [*(f"{what} 'none'" for what in nothing), "connect-src 'self'"]
    for part in ("style", "script"):
        inner = "".join(re.findall(rf"<{part}>(.*?)</{part}>", text, re.DOTALL))
        rules.append(f"{part}-src 'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'")
    return text.encode(), {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(rules),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
