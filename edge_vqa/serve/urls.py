"""Pictures that a request names instead of bringing them: data URIs, and addresses where the server was told to fetch some."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener

from edge_vqa.errors import EdgeVqaError
from edge_vqa.pictures.open import inline
from edge_vqa.serve.protocol import RefusedError

SECONDS, WHOLE_SECONDS = 10.0, 30.0  # for a host to go on, and for a whole picture


class _NoRedirects(HTTPRedirectHandler):
    """An allowed host must not send the server on to one that is not."""

    def redirect_request(self, *_: Any) -> None:
        return None


_open = build_opener(_NoRedirects, ProxyHandler({})).open


def image_of(url: str, allowed: Collection[str], most: int) -> bytes:
    """The bytes of a picture, at most so many. allowed: hosts that http addresses may name. Raises RefusedError."""
    if url.startswith("data:"):
        try:
            return inline(url)
        except EdgeVqaError as error:
            raise RefusedError(400, str(error)) from None
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise RefusedError(400, "a picture is a data URI, data:image/jpeg;base64,...: files of the server cannot be named")
    if host not in allowed:
        raise RefusedError(
            400, f"pictures are not fetched from {host}: send a data URI, or start the server with --allow-urls {host}"
        )
    data, until = b"", time.monotonic() + WHOLE_SECONDS
    try:
        with _open(url, timeout=SECONDS) as response:
            while len(data) <= most and (piece := response.read1(1 << 20)):
                data += piece
                if time.monotonic() > until:
                    raise TimeoutError(f"it was not there within {WHOLE_SECONDS:g} seconds")
    except (URLError, OSError, ValueError) as error:
        raise RefusedError(400, f"no picture came from {host} ({getattr(error, 'reason', None) or error})") from None
    except Exception as error:  # of http.client, on hostile replies
        raise RefusedError(400, f"no picture came from {host} ({type(error).__name__})") from None
    if len(data) > most:
        raise RefusedError(413, f"the picture from {host} has more than {most >> 20} MB: make it smaller")
    return data
