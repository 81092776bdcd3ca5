"""The worker process: accepts, picks, connects, relays, closes."""
