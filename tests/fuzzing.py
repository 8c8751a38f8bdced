"""Breaking inputs in every way that files break, and seeing that a reader ends well.

A reader ends well in success or in a `DermaganError`. Any other exception, and a reader that does
not come back, is a fault of the program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from dermagan_jax.errors import DermaganError

LIMIT_SECS = 20.0

_ODD_VALUES = (
    None,
    True,
    0,
    -1,
    10**30,
    0.5,
    float("nan"),
    "",
    "x",
    "../x",
    [],
    [None],
    {},
    {"": 0},
)
_ODD_TEXTS = (
    *(
        "",
        "\x00",
        "\ufeff",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "\n",
        "\r",
        "\r\n\r\n",
        "=1+1",
        "-1",
        "1e999",
    ),
    *(
        "nan",
        "inf",
        "../../x",
        "/",
        "\\",
        "%s",
        "{}",
        "\u202e",
        "ß" * 300,
        "9" * 400,
        "A" * 200_000,
    ),
)


class Hang(BaseException):
    """A reader that did not come back."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader and inputs that it takes.

    Attributes:
      name: of the reader.
      seeds: whole inputs.
      read: reads one input, from wherever it has to lie.
    """

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]


@dataclasses.dataclass
class Tally:
    """What came of the inputs of a target.

    Attributes:
      refused: how many ended in our error.
      taken: how many were read.
      faults: the first inputs of each fault, by the place in the program where it came up.
    """

    refused: int = 0
    taken: int = 0
    faults: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many inputs were tried."""
        return self.refused + self.taken


def fuzz(target: Target, *, count: int, seed: int) -> Tally:
    """Reads `count` broken inputs, the same ones for the same seed."""
    rng = random.Random(f"{target.name}/{seed}")
    tally = Tally()
    for _ in range(count):
        data = mutate(rng, target.seeds)
        try:
            with _limited():
                target.read(data)
            tally.taken += 1
        except DermaganError:
            tally.refused += 1
        except (Exception, Hang) as error:  # noqa: BLE001 - finding them is the point
            tally.refused += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} in {last.filename.rpartition('/')[2]}:{last.lineno}"
            tally.faults.setdefault(f"{place}: {str(error)[:120]}", data)
    return tally


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"no answer after {LIMIT_SECS:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mutate(rng: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """Returns one of the seeds, broken in one to four ways."""
    data = rng.choice(seeds)
    ways: list[Callable[[random.Random, bytes], bytes]] = [_flip, _cut, _repeat, _overwrite, _end]
    if _is_text(data):
        ways += [_put_text, _swap_cells, _drop_line] * 2
    if data[:1] in (b"{", b"["):
        ways += [_change_json] * 6
    ways.append(lambda rng, data: _splice(rng, data, rng.choice(seeds)))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(ways)(rng, data)
    return data


def _is_text(data: bytes) -> bool:
    try:
        return b"\x00" not in data and bool(data.decode())
    except UnicodeDecodeError:
        return False


def _place(rng: random.Random, data: bytes) -> int:
    # Headers are where a byte counts most.
    return rng.randrange(min(len(data), 64) if data and rng.random() < 0.3 else len(data) + 1)


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + data[start + rng.randrange(1, 1 + max(1, len(data) // 4)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    piece = data[start : start + rng.randrange(1, 64)]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start, size = _place(rng, data), rng.choice((1, 2, 4, 8))
    value = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80", bytes([rng.randrange(256)])))
    return data[:start] + value * size + data[start + size :]


def _end(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _put_text(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + rng.choice(_ODD_TEXTS).encode() + data[start + rng.randrange(4) :]


def _swap_cells(rng: random.Random, data: bytes) -> bytes:
    cells = data.split(b",")
    one, two = rng.randrange(len(cells)), rng.randrange(len(cells))
    cells[one], cells[two] = cells[two], cells[one]
    return b",".join(cells)


def _drop_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    start = rng.randrange(len(lines)) if lines else 0
    del lines[start : start + rng.randrange(1, 3)]
    return b"".join(lines)


def _change_json(rng: random.Random, data: bytes) -> bytes:
    try:
        document = json.loads(data)
    except ValueError:
        return _flip(rng, data)
    holder: list[Any] = [document]
    place: Any = holder
    key: Any = 0
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    if rng.random() < 0.3 and place is not holder:
        del place[key]
    else:
        place[key] = rng.choice(_ODD_VALUES)
    return json.dumps(holder[0]).encode()
