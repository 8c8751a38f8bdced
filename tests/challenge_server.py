"""A local HTTP server of made-up challenge files, with the faults that real ones have."""

from __future__ import annotations

import csv
import hashlib
import io
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from dermagan_jax import images, lesions

ISIC2019 = "ISIC_2019_Training"
TRUTH = f"/2019/{ISIC2019}_GroundTruth.csv"
IMAGES = f"/2019/{ISIC2019}_Input.zip"
CODES = ("MEL", "BCC", "AK", "BKL", "NV")


class Server(ThreadingHTTPServer):
    """Serves `files`; `faults` gives each path a list of faults, one used up a request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges, self.marks, self.delay_secs = True, True, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is part of the plan."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        faults = server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else ""
        body = server.files.get(self.path)
        if asked and not self.headers.get("If-Range"):
            fault = "400"
        if body is None or fault.isdigit():
            self.send_error(int(fault) if fault else 404)
            return
        if fault == "changed":
            body = server.files[self.path] = bytes(reversed(body))
        mark = f'"{hashlib.md5(body).hexdigest()}"'
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") in (mark, None):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(body) and start:
            self.send_error(416)
            return
        said_start = start + 1 if fault == "wrong range" else start
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {said_start}-{len(body) - 1}/{len(body)}")
        if server.marks:
            self.send_header("ETag", mark)
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        body = body[said_start:]
        length = len(body) + (1000 if fault == "too long" else 0)
        if fault == "too short":
            length = len(body) // 2
        if fault != "no length":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self._send(body[: len(body) // 2] if fault == "cut" else body)
        self.close_connection = True

    def _send(self, body: bytes) -> None:
        step = 20_000 if self.server.delay_secs else len(body) or 1
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            time.sleep(self.server.delay_secs)


def table(header: list[str], rows: list[list]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def png(number: int) -> bytes:
    rng = np.random.default_rng(number)
    return images.encode_png(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))


def challenge_files() -> dict[str, bytes]:
    """Both sets as the organisers serve them, with five images each."""
    ids = [f"ISIC_000000{number}" for number in range(5)]
    files = {}
    for year, stem, columns in (
        (2018, "ISIC2018_Task3_Training", list(lesions.ISIC2018_COLUMNS)),
        (2019, ISIC2019, list(lesions.ISIC2019_COLUMNS)),
    ):
        codes = [code if code in columns else "AKIEC" for code in CODES]
        rows = [
            [image, *(float(code == column) for column in columns)]
            for image, code in zip(ids, codes, strict=True)
        ]
        truth = table(["image", *columns], rows)
        grouping = table(["image", "lesion_id"], [[image, f"HAM_{image[-7:]}"] for image in ids])
        inside = {f"{stem}_Input/{image}.jpg": png(n) for n, image in enumerate(ids)}
        inside = {f"{stem}_Input/": b"", f"{stem}_Input/LICENSE.txt": b"CC BY-NC 4.0"} | inside
        files[f"/{year}/{stem}_Input.zip"] = zipped(inside)
        if year == 2018:
            member = f"{stem}_GroundTruth/{stem}_GroundTruth.csv"
            files[f"/2018/{stem}_GroundTruth.zip"] = zipped({member: truth})
            files[f"/2018/{stem}_LesionGroupings.csv"] = grouping
        else:
            files[f"/2019/{stem}_GroundTruth.csv"] = truth
            files[f"/2019/{stem}_Metadata.csv"] = grouping
    return files
