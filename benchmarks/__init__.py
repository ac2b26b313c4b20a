"""Measurements that take minutes and need what the tests do without; each script says how to run it."""
