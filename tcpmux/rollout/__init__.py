"""A version proves itself: statistics, verdicts, and the steps of a rollout, as values.

Nothing in here reads a clock or shared memory: control does (control/rollouts.py), or a simulation.
"""
