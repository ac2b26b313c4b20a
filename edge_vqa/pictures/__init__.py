"""Pictures: an untrusted file, or a camera, in; upright RGB pixels out, scaled and cut as a vision tower wants them.

Open first: `open.py`.
"""
