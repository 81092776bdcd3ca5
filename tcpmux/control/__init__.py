"""The control process (aiohttp on the admin socket) and, in client.py, the way to talk to it."""
