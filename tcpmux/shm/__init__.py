"""Shared memory: the route table, what all workers write, and each worker's live region.

The only package that maps memory. Imported by every process, which loads what it needs: each
region is a module.
"""

from tcpmux.one_file import modules_in_one_file

# As setup.py builds them.
modules_in_one_file(
    __name__, __path__, "_region",
    "_address", "_beat", "_commons", "_connections", "_contests", "_declared", "_image", "_live",
    "_pick", "_readings", "_row", "_rule_set", "_table",
)  # fmt: skip
