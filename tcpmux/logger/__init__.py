"""The log process: takes what workers have to say of connections, and writes the access log."""
