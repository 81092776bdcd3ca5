"""Types of the compiled module, which has the documentation."""

from tcpmux.config.address import Address

LOCAL_FAILURES: frozenset[int]

def address_hash(address: Address | str) -> int: ...
def is_missing_loopback(address: Address) -> bool: ...
