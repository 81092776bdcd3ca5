"""Types of the compiled module; what things mean is said there."""

from tcpmux.shm._live import Live

def listening(live: Live) -> list[int]: ...
