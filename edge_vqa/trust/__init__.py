"""Whether an answer is to be relied on. In: the trace that an answer left behind; out: a confidence, and the gate's verdict.
Besides, the intervals of what was measured, and the watch on the drift of confidences.

Open first: `confidence.py`.
"""
