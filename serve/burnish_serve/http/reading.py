"""A request's body: as long as is allowed, counted while it comes, and JSON that means one thing only.

>>> strict_json(b'{"a": 1, "a": 2}')
Traceback (most recent call last):
...
burnish_serve.http.refusal.Refusal: the body names a key twice
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from burnish_serve.http.refusal import Refusal

JSON = "application/json"
BINARY = "application/octet-stream"
CLOSE = {"Connection": "close"}


async def read_body(request: Request, limit: int, kinds: tuple[str, ...] = (JSON,)) -> bytes:
    """Return the body.

    Args:
        request: the request.
        limit: bytes at the most.
        kinds: media types; a body that names none is taken for the first.

    Raises:
        Refusal: it is too long (413), compressed, or of another kind (415).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refusal(415, "compressed_body", "compressed bodies are not taken: send it as it is", CLOSE)
    kind = request.headers.get("content-type", kinds[0]).partition(";")[0].strip().lower()
    if kind not in kinds:
        raise Refusal(415, "media_type", f"the body must be {' or '.join(kinds)}", CLOSE)
    length = request.headers.get("content-length", "0")
    too_long = Refusal(413, "body_too_large", f"the body has more than {limit} bytes", CLOSE)
    if not length.isdecimal() or int(length[:20]) > limit:
        raise too_long
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_long
        parts.append(part)
    return b"".join(parts)


def strict_json(body: bytes) -> Any:
    """Return what a body says.

    Raises:
        Refusal: it is no JSON, no UTF-8, nested too deep, or has a key twice, NaN, or half a surrogate pair (400).
    """
    try:
        text = body.decode()
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refusal(400, "bad_unicode", "the body holds half a surrogate pair") from error
    except UnicodeDecodeError as error:
        raise Refusal(400, "bad_unicode", "the body is not UTF-8") from error
    except RecursionError as error:
        raise Refusal(400, "too_deep", "the body is nested too deep") from error
    except ValueError as error:
        raise Refusal(400, "bad_json", "the body is not JSON") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refusal(400, "duplicate_key", "the body names a key twice")
    return found


def _constant(name: str) -> NoReturn:
    raise Refusal(400, "not_a_number", "the body holds NaN or Infinity, which JSON has not")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
