"""The worker process: accepts, picks, connects, relays, closes."""

from tcpmux.one_file import modules_in_one_file

# As setup.py builds them.
modules_in_one_file(__name__, __path__, "_loop", "_listeners", "_master_line", "_guardian")
