"""Addresses as csrc/ has them, for what reads and writes them."""

from tcpmux.shm.c_live cimport tm_peer
from tcpmux.shm.c_table cimport tm_address


cdef int put_address(tm_address *out, address) except -1
cdef str address_text(const tm_address *address)
cdef str peer_text(const tm_peer *peer)
