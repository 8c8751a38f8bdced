"""Fetching one large file over HTTP so that a broken transfer goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
import tqdm

from dermagan_jax.errors import DermaganError

# What a break may lose: the chunk under way is not handed over.
_CHUNK_BYTES = 1 << 14
# A failure after this much that no earlier attempt had reached starts the count of failures anew:
# 9 GB over a poor line break off more often than any fixed bound, and still come to an end.
_HEADWAY_BYTES = 8 << 20
_MAX_BACKOFF_SECS = 60.0
_TIMEOUT_SECS = (10.0, 60.0)  # to connect; between two packets
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _BrokenOffError(Exception):
    """An attempt that failed in a way that another attempt may not."""


def fetch(
    url: str,
    part: Path,
    *,
    check_room: Callable[[int], None],
    attempts: int = 6,
    backoff_secs: float = 1.0,
    progress: bool = True,
) -> None:
    """Downloads a file, going on from what an earlier call or attempt left in `part`.

    The server's ETag (or date) is kept in a small file beside `part`; only while it is unchanged is
    the rest asked for (HTTP Range and If-Range). A server without ranges or without either mark, or
    a file changed since, means starting again. `part` is whole when this returns.

    Args:
      url: the file's address, http or https.
      part: where its bytes go; the folder must exist.
      check_room: called with the number of bytes still to come, before they come; raises when they
        do not fit. Not called when the server does not tell the length.
      attempts: failures in a row, without headway between them, that are borne.
      backoff_secs: wait after the first failure; doubled after each further one, 60 s at most.
      progress: whether to draw a progress bar.

    Raises:
      DermaganError: when the server refuses, or the transfer fails too often; what has come is kept
        for the next call.
    """
    failures, furthest = 0, _size(part)
    while True:
        try:
            with requests.Session() as session, _bar(part.name, progress) as bar:
                _attempt(session, url, part, check_room, bar)
            return
        except (
            _BrokenOffError,
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            reason = error
        except requests.RequestException as error:
            raise DermaganError(
                f"{url}: cannot be downloaded ({error}); check --base-url"
            ) from error
        size = _size(part)
        failures = 1 if size >= furthest + _HEADWAY_BYTES else failures + 1
        furthest = max(furthest, size)
        if failures >= attempts:
            raise DermaganError(
                f"{url}: broke off {failures} times ({_short(reason)}); {size:,} bytes are kept, "
                "run the same command again to go on"
            ) from reason
        time.sleep(min(_MAX_BACKOFF_SECS, backoff_secs * 2 ** (failures - 1)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


@contextlib.contextmanager
def _bar(name: str, progress: bool) -> Iterator[tqdm.tqdm]:
    with tqdm.tqdm(
        desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress
    ) as bar:
        yield bar


def _attempt(
    session: requests.Session,
    url: str,
    part: Path,
    check_room: Callable[[int], None],
    bar: tqdm.tqdm,
) -> None:
    """Asks once for what is missing and appends it; returns when `part` is whole."""
    state = _read_state(part, url)
    offset = _size(part) if state["mark"] else 0
    length: int | None = state["length"]
    if offset and offset == length:
        return
    # identity: a compressed transfer could be neither measured nor resumed.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": state["mark"]}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECS) as response:
        _check_status(response, url)
        if response.status_code == 200:
            offset, length = 0, _length(response)
            _begin(part, {"url": url, "mark": _mark(response), "length": length})
        else:
            _check_continues(response, part, offset, state)
        if length is not None:
            check_room(length - offset)
        bar.total, bar.initial, bar.n = length, offset, offset
        with part.open("ab") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if length is not None and _size(part) != length:
        raise _BrokenOffError(f"{_size(part):,} of {length:,} bytes came")


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in _RETRY_STATUS:
        raise _BrokenOffError(f"HTTP {status} {response.reason}")
    if status not in (200, 206, 416):
        raise DermaganError(
            f"{url}: the server answers HTTP {status} {response.reason}; check --base-url"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DermaganError(f"{url}: the server compresses the file; use a mirror that does not")


def _check_continues(
    response: requests.Response, part: Path, offset: int, state: dict[str, Any]
) -> None:
    """Makes sure that an answer to a range request is the rest of the file that was begun."""
    found = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip()
    )
    expected = (offset, state["length"] - 1, state["length"]) if state["length"] else None
    mark = _mark(response)
    if (
        response.status_code != 206
        or found is None
        or tuple(int(number) for number in found.groups()) != expected
        or mark not in ("", state["mark"])
    ):
        _begin(part, {"url": "", "mark": "", "length": None})
        raise _BrokenOffError("the file on the server is not the one begun; starting again")


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _mark(response: requests.Response) -> str:
    """Returns what tells this version of the file from others: a strong ETag, or its date."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _begin(part: Path, state: dict[str, Any]) -> None:
    """Starts the part file anew; a kill between any two lines leaves nothing that misleads."""
    part.unlink(missing_ok=True)
    _state_path(part).write_text(json.dumps(state), encoding="utf-8")


def _read_state(part: Path, url: str) -> dict[str, Any]:
    """Reads what is known of the transfer begun, or nothing where it was of another file."""
    try:
        state = json.loads(_state_path(part).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        state = {}
    if not isinstance(state, dict) or state.get("url") != url:
        return {"url": url, "mark": "", "length": None}
    return {"mark": "", "length": None, **state}
