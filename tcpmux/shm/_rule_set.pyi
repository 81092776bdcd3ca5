"""Types of the compiled module, which has the documentation."""

from collections.abc import Sequence

from tcpmux.config.address import Address
from tcpmux.shm.image import Image

def ids_by_route(image: Image) -> dict[int, Sequence[tuple[Address | str, int]]]: ...
