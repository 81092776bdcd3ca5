"""Measures what a proxied connection costs: tcpmux beside nginx and HAProxy, in one run.

Run by hand as ``python -m bench``; README.md in this directory explains the numbers.
"""
