"""Shared memory: the route table, what all workers write, and each worker's live region.

The only package that maps memory. Imported by every process.
"""
