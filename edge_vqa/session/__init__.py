"""A bundle at work: what was asked for (`options`), the loaded bundle (`session`), how a question is asked (`plan`), and many
questions together (`many`). In: pictures and questions; out: answers. `edge_vqa.Model` adds whose turn it is.

Open first: `session.py`.
"""
