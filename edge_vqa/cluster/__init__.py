"""Many machines: a file of questions is cut into parts, and workers of a Ray cluster answer them.

Of all modules of the runtime only these know Ray and fsspec (the extra `ray`); they are imported when `--ray` asks for them.
"""
