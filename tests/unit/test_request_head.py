"""The head of a request: what is not exactly one well-formed request is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmux.control.head import MAX_HEADERS, MAX_TARGET, Head, Refused, parse_head

GET = b"GET /v1/status HTTP/1.1\r\nHost: x"


def test_a_request_is_taken_apart() -> None:
    head = parse_head(
        b"POST /v1/diff?a=%20b HTTP/1.1\r\nHOST:x:1\r\nContent-Length:  17 \r\n"
        b"X-Many: a\r\nx-many: b\r\nAccept: */*\r\nExpect: 100-continue\r\nConnection: a, Close"
    )
    assert (head.method, head.path, head.minor, head.length) == ("POST", "/v1/diff", 1, 17)
    assert head.headers["host"] == "x:1"
    assert head.headers["x-many"] == "a, b"
    assert (head.keep, head.waits) == (False, True)
    assert head.made_anew() == (
        b"POST /v1/diff?a=%20b HTTP/1.1\r\nHost: tcpmux\r\naccept: */*\r\n"
        b"Content-Length: 17\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("data", "keep"),
    [
        (GET, True),
        (GET + b"\r\nConnection: close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive", True),
    ],
)
def test_whether_the_connection_stays(data: bytes, keep: bool) -> None:
    assert parse_head(data).keep is keep


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"SSH-2.0-OpenSSH_9.9", 400),
        (b"PRI * HTTP/2.0", 400),
        (b"GET / HTTP/2.0\r\nHost: x", 505),
        (b"GET / HTTP/1.1", 400),
        (b"GET  / HTTP/1.1\r\nHost: x", 400),
        (b"GET /\r\nHost: x", 400),
        (b"GET / HTTP/1.10\r\nHost: x", 400),
        (b" GET / HTTP/1.1\r\nHost: x", 400),
        (b"\r\nGET / HTTP/1.1\r\nHost: x", 400),
        (b"GET http://x/ HTTP/1.1\r\nHost: x", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: x", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x", 400),
        (b"TRACE / HTTP/1.1\r\nHost: x", 405),
        (b"get / HTTP/1.1\r\nHost: x", 405),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x", 400),
        (b"GET /a\x00b HTTP/1.1\r\nHost: x", 400),
        (b"GET /" + b"a" * 4096 + b" HTTP/1.1\r\nHost: x", 414),
        (b"GET /" + b"a" * 4096 + b" HTTP/2.0\r\nHost: x", 505),
        (b"GET /" + b"a" * 4096 + b" x", 400),
        (GET + b"\r\n X: folded", 400),
        (GET + b"\r\nX : blank", 400),
        (GET + b"\r\nX", 400),
        (GET + b"\r\n: empty", 400),
        (GET + b"\r\nX: a\nY: b", 400),
        (GET + b"\r\nX: a\rY: b", 400),
        (GET + b"\r\nX: \x00", 400),
        (GET + b"\r\nX: \x1b[2J", 400),
        (GET + b"\r\nHost: y", 400),
        (GET + b"\r\nAuthorization: Bearer a\r\nauthorization: Bearer b", 400),
        (GET + b"\r\nContent-Length: 1\r\nContent-Length: 1", 400),
        (GET + b"\r\nContent-Length: 1, 1", 400),
        (GET + b"\r\nContent-Length: -1", 400),
        (GET + b"\r\nContent-Length: +1", 400),
        (GET + b"\r\nContent-Length: 1_0", 400),
        (GET + b"\r\nContent-Length: 0x10", 400),
        (GET + b"\r\nContent-Length: \xb2", 400),
        (GET + b"\r\nContent-Length: 9999999999999", 400),
        (GET + b"\r\nContent-Length:", 400),
        (GET + b"\r\nContent-Length: 4\r\nTransfer-Encoding: chunked", 411),
        (GET + b"\r\nTransfer-Encoding: xchunked", 411),
        (GET + b"\r\nContent-Encoding: deflate", 415),
        (GET + b"\r\nContent-Encoding: gzip, br", 415),
        (GET + b"\r\nX: y" * (MAX_HEADERS + 1), 431),
    ],
)
def test_what_is_none_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(Refused) as caught:
        parse_head(data)
    assert caught.value.status == status
    assert str(caught.value).isprintable()


def test_a_target_of_4096_bytes_is_taken_and_a_longer_one_named() -> None:
    target = "/v1/routes/r/explanation?sni=".ljust(MAX_TARGET, "a")
    assert parse_head(f"GET {target} HTTP/1.1\r\nHost: x".encode()).target == target
    told = "^path and query are longer than 4096 bytes: ask for less at once$"
    with pytest.raises(Refused, match=told):
        parse_head(f"GET {target}a HTTP/1.1\r\nHost: x".encode())


def parsed(data: bytes) -> Head | None:
    try:
        return parse_head(data)
    except Refused:
        return None


PIECES = st.sampled_from(
    [GET, b"POST / HTTP/1.1", b"\r\n", b"\n", b"\r", b"\0", b": ", b"Content-Length", b"1", b"x"]
)


@given(st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=20))
def test_whatever_comes_is_one_request_or_none(pieces: list[bytes]) -> None:
    """And what goes on to the server behind means the same."""
    head = parsed(b"".join(pieces))
    if head is None:
        return
    anew = head.made_anew()
    assert anew.count(b"\r\n\r\n") == 1
    again = parse_head(anew.removesuffix(b"\r\n\r\n"))
    assert (again.method, again.target, again.minor) == (head.method, head.target, head.minor)
    assert (again.length, again.keep) == (head.length, head.keep)
