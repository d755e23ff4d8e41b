"""Inputs made from a corpus without looking at what they reach: for where atheris is not installed, and for CI.

The same seed gives the same inputs.
"""

import random
from collections.abc import Iterator, Sequence

# Where lengths, counts and signs turn over.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MAX_BYTES = 2**16


def inputs(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The corpus, then changes of it without end."""
    chance = random.Random(seed)
    yield from corpus
    while True:
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            chance.choice((_flip, _number, _cut, _repeat, _splice, _overwrite))(data, chance, corpus)
        yield bytes(data[:MAX_BYTES])


def _flip(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _number(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    width, order = chance.choice((1, 2, 3, 4)), chance.choice(("little", "big"))
    place = _place(data, chance)
    value = chance.choice(NUMBERS) & (256**width - 1)
    data[place : place + width] = value.to_bytes(width, "little" if order == "little" else "big")


def _cut(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    start = _place(data, chance)
    del data[start : start + chance.choice((1, 4, 16, 256, len(data)))]


def _repeat(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    start = _place(data, chance)
    piece = data[start : start + chance.choice((1, 8, 64, 512))]
    data[start:start] = piece * chance.choice((1, 1, 2, 50))


def _splice(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    other = chance.choice(corpus)
    start = _place(data, chance)
    data[start:] = other[chance.randrange(len(other) + 1) :]


def _overwrite(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    start = _place(data, chance)
    data[start : start + 4] = chance.randbytes(chance.choice((1, 2, 4)))


def _place(data: bytearray, chance: random.Random) -> int:
    """Half of them in the first hundred bytes, where headers are."""
    end = len(data) if chance.random() < 0.5 else min(len(data), 100)
    return chance.randrange(end) if end else 0
