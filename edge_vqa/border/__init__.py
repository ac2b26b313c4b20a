"""What crosses the border of the program: files in (`untrusted`), JSON in (`typed`), files out (`whole`), standard streams,
child processes, a command run as a program. In: what nobody vouches for; out: checked values, or one EdgeVqaError.

Open first: `untrusted.py`.
"""
