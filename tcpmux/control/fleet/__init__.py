"""The part that control has in a fleet. Its modules are loaded where a fleet is configured."""
