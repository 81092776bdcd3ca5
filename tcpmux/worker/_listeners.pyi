"""Types of the compiled module, which has the documentation."""

from tcpmux.shm._live import Live

def listening(live: Live) -> list[int]: ...
