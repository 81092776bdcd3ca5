"""A stage before the pick, as somebody would add one: one file and one row (test_preface.py)."""
