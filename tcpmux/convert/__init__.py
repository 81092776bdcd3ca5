"""Files of other proxies as a routes.yaml, every directive of them accounted for.

A reader (haproxy/, nginx/, ...) makes statements of a file (report.py), marks each word of them as
mapped, harmless or changing traffic, and makes drafts of routes (draft.py). What comes of these is
printed by conversion.py, and only after it has been read back as the same configuration.
"""
