"""This device: which board it is, what it has and what suits it. In: /proc, /sys, a bundle; out: a profile, threads, an
estimate of memory, and whether a new bundle may be run.

Open first: `profile.py`.
"""
