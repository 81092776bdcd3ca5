"""Types of the compiled module, which has the documentation."""

from tcpmux.shm._table import Table
from tcpmux.shm.image import Image

def publish_image(table: Table, image: Image) -> int: ...
def read_image(table: Table) -> tuple[int, Image]: ...
