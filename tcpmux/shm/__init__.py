"""Shared memory: the route table, the tickets, and each worker's live region.

The only package that maps memory. Imported by every process.
"""
