"""Whether a bundle works on this device, and how fast: doctor, bench, the tuner behind it, and what a trial runs in its child.
In: a bundle; out: findings, figures, the fastest settings.

Open first: `doctor.py`.
"""
