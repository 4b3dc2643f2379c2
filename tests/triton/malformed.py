"""Requests to the index, broken in every way that a client may break them; the same for the same seed."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Fields = dict[str, Any]

STRANGE: tuple[Any, ...] = (
    *(None, True, False, "", "x", [], {}, [[]], [{}], [None], {"a": 1}),
    *(0, -1, 1, 7, 1.5, -0.0, 1e-320, 1e308, -1e308, 2**31, 2**53 + 1, 2**63 - 1),
    *(2**63, 2**64, -(2**63), 10**40, "NaN", "\0", "😀" * 9, "\u202e", "a" * 40_000),
)
FIELDS = ("input", "vectors", "ids", "k", "effort", "model", "include_vectors", "truncate")
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?")
LITERALS = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"0x10", b"01", b"+1", b".5", b"1."),
    *(b"9" * 400, b"1e-999", b"1_000", b"'1'", b"null", b"true", b"--1", b"1e", b"0.1e400"),
)
BROKEN_TEXT = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b'"\\u12"',
    b"\0",
    b"\xef\xbb\xbf",
)


@dataclass(frozen=True)
class Sent:
    """A request as it goes out."""

    path: str
    body: bytes


def mutated(path: str, fields: Fields, chance: random.Random) -> Sent:
    """A valid request with one to three things changed about it."""
    fields = json.loads(json.dumps(fields))
    if chance.random() < 0.6:
        for _ in range(chance.choice((1, 1, 2, 3))):
            chance.choice(CHANGES_OF_FIELDS)(fields, chance)
        body = json.dumps(fields).encode("utf-8", "surrogatepass")
    else:
        body = json.dumps(fields).encode()
        for _ in range(chance.choice((1, 1, 2))):
            body = chance.choice(CHANGES_OF_BYTES)(body, chance)
    if chance.random() < 0.05:
        reads, writes = ("/v1/search", "/v1/lookup"), ("/v1/upsert", "/v1/delete")
        # What reads is sent side by side, and stays that: what is right would depend on which was first.
        path = chance.choice(reads if path in reads else (*reads, *writes))
    return Sent(path, body)


def replace_field(fields: Fields, chance: random.Random) -> None:
    fields[chance.choice(FIELDS)] = chance.choice(STRANGE)


def add_unknown(fields: Fields, chance: random.Random) -> None:
    fields[chance.choice(("id", "vector", "top_k", "K", "", "a\0", "__proto__"))] = 1


def drop(fields: Fields, chance: random.Random) -> None:
    if fields:
        del fields[chance.choice(list(fields))]


def replace_inside(fields: Fields, chance: random.Random) -> None:
    """Something strange at some place of `ids` or `vectors`."""
    inside = fields.get(chance.choice(("ids", "vectors")))
    if isinstance(inside, list) and inside:
        if isinstance(inside[0], list) and inside[0] and chance.random() < 0.8:
            inside = chance.choice([one for one in inside if isinstance(one, list)])
        if inside:
            inside[chance.randrange(len(inside))] = chance.choice(STRANGE)


def change_dimension(fields: Fields, chance: random.Random) -> None:
    vectors = fields.get("vectors")
    if isinstance(vectors, list) and vectors and isinstance(vectors[0], list):
        row = vectors[chance.randrange(len(vectors))]
        if isinstance(row, list):
            row.append(0.5) if chance.random() < 0.5 else row[-1:].clear()
            if chance.random() < 0.5:
                del row[chance.randrange(len(row) + 1) :]


def repeat(fields: Fields, chance: random.Random) -> None:
    """Too many ids or vectors, or some twice."""
    name = chance.choice(("ids", "vectors", "input"))
    if isinstance(fields.get(name), list) and len(json.dumps(fields[name])) < 200:
        fields[name] = fields[name] * chance.choice((2, 3, 2000))
    elif isinstance(fields.get(name), list):
        fields[name] = fields[name] * 2


def nest(fields: Fields, chance: random.Random) -> None:
    name = chance.choice(list(fields) or ["ids"])
    for _ in range(chance.choice((1, 3, 200))):
        fields[name] = [fields.get(name)] if chance.random() < 0.8 else {name: fields.get(name)}


def shuffle(fields: Fields, chance: random.Random) -> None:
    """Another order of fields and of ids: nothing that matters to a search."""
    items = list(fields.items())
    chance.shuffle(items)
    fields.clear()
    fields.update(items)
    if isinstance(fields.get("ids"), list):
        chance.shuffle(fields["ids"])


def change_number(fields: Fields, chance: random.Random) -> None:
    name = chance.choice(("k", "effort"))
    fields[name] = chance.choice((0, 1, 2, 17, 999, 1000, 1001, 65_536, 65_537, -3, 2.0, "2"))


CHANGES_OF_FIELDS: tuple[Callable[[Fields, random.Random], None], ...] = (
    *(replace_field, add_unknown, drop, replace_inside, replace_inside, change_dimension),
    *(repeat, nest, shuffle, change_number),
)


def cut(body: bytes, chance: random.Random) -> bytes:
    return body[: chance.randrange(len(body) + 1)]


def replace_literal(body: bytes, chance: random.Random) -> bytes:
    """What JSON does not know, or does not hold, in place of a number."""
    found = list(NUMBER.finditer(body))
    if not found:
        return body
    at = chance.choice(found)
    return body[: at.start()] + chance.choice(LITERALS) + body[at.end() :]


def break_text(body: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + chance.choice(BROKEN_TEXT) + body[at:]


def change_byte(body: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(max(len(body), 1))
    return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]


def nest_deeply(body: bytes, chance: random.Random) -> bytes:
    deep = chance.choice((100, 1023, 1025, 50_000))
    opened, closed = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    nested = opened * deep + b"1" + closed * chance.choice((deep, deep - 1, 0))
    return chance.choice((nested, body[:-1] + b', "ids": ' + nested + b"}"))


def say_twice(body: bytes, chance: random.Random) -> bytes:
    """A field that stands there already; the last one counts."""
    return body[:-1] + chance.choice(
        (b', "k": 3}', b', "ids": [1]}', b', "ids": [1, 1]}', b', "k": 0}')
    )


def surround(body: bytes, chance: random.Random) -> bytes:
    before, after = chance.choice(
        (
            (b" \n", b"\t"),
            (b"", b"}"),
            (b"[", b"]"),
            (b"", body),
            (b"\xef\xbb\xbf", b""),
            (b"//", b""),
        )
    )
    return before + body + after


def write_strangely(body: bytes, chance: random.Random) -> bytes:
    """The same in another notation, or something close to it."""
    return chance.choice(
        (
            body.replace(b" ", b""),
            body.replace(b'"', b"'"),
            body.replace(b"ids", b"\\u0069ds"),
            body.decode(errors="replace").encode("utf-16"),
            body.upper(),
        )
    )


CHANGES_OF_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(cut, replace_literal, replace_literal, break_text, change_byte, nest_deeply),
    *(say_twice, surround, write_strangely),
)
