# cython: language_level=3
"""Addresses and errors of sockets, as csrc/ has them."""

import os
import socket
try:
    from _blake2 import blake2b  # hashlib loads OpenSSL, for which connections would wait as well
except ImportError:
    from hashlib import blake2b

from libc.stddef cimport size_t
from libc.string cimport memcpy, memset

from tcpmux.shm.c_live cimport tm_peer
from tcpmux.shm.c_table cimport (
    AF_INET, AF_INET6, AF_UNIX, htons, sockaddr_in, sockaddr_in6, tm_address,
)

cdef extern from "sock.h" nogil:
    void tm_peer_from(tm_peer *peer, const tm_address *address)
    bint tm_sock_local_failure(int error)
    bint tm_sock_missing_loopback(const tm_address *address)

# Of this host, which say nothing of an endpoint.
LOCAL_FAILURES = frozenset(error for error in range(1, 4096) if tm_sock_local_failure(error))



cdef int put_address(tm_address *out, address) except -1:
    """From a config Address (host, port, path)."""
    cdef bytes raw
    memset(out, 0, sizeof(tm_address))
    if address.path:
        raw = os.fsencode(address.path)
        assert <size_t>len(raw) < sizeof(out.un.sun_path)
        out.un.sun_family = AF_UNIX
        memcpy(out.un.sun_path, <char *>raw, len(raw))
        out.length = sizeof(out.un)
    elif ":" in address.host:
        raw = socket.inet_pton(socket.AF_INET6, address.host)
        out.in6.sin6_family = AF_INET6
        out.in6.sin6_port = htons(address.port)
        memcpy(out.in6.sin6_addr.s6_addr, <char *>raw, 16)
        out.length = sizeof(sockaddr_in6)
    else:
        raw = socket.inet_pton(socket.AF_INET, address.host)
        out.in_.sin_family = AF_INET
        out.in_.sin_port = htons(address.port)
        memcpy(&out.in_.sin_addr, <char *>raw, 4)
        out.length = sizeof(sockaddr_in)
    return 0



cdef str address_text(const tm_address *address):
    """As people write it: 127.0.0.1:80, [::1]:80, unix:/path."""
    cdef tm_peer peer
    if address.any.sa_family == AF_UNIX:
        return "unix:" + os.fsdecode(<bytes>address.un.sun_path)
    tm_peer_from(&peer, address)
    return peer_text(&peer)



cdef str peer_text(const tm_peer *peer):
    """127.0.0.1:80, [::1]:80; unix: for a UNIX socket without a name; "" for none."""
    if peer.family == AF_INET:
        return f"{peer.ip[0]}.{peer.ip[1]}.{peer.ip[2]}.{peer.ip[3]}:{peer.port}"
    if peer.family == AF_INET6:
        return f"[{socket.inet_ntop(socket.AF_INET6, <bytes>(<char *>peer.ip)[:16])}]:{peer.port}"
    return "unix:" if peer.family else ""



def address_hash(address):
    """64 bits that are the same for an address everywhere and in every release."""
    return int.from_bytes(blake2b(os.fsencode(str(address)), digest_size=8).digest(), "little")



def is_missing_loopback(address):
    """Whether an Address is a loopback address that this host does not have."""
    cdef tm_address out
    if address.path:
        return False
    put_address(&out, address)
    return tm_sock_missing_loopback(&out)
