"""The log process: reads the workers' log entries, and writes the access log."""
