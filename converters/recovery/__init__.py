"""Recovery: a short training that brings a quantised LM back to what it was, with the float LM as teacher and no labels.

Open first: `training.py`, or `closed_form.py`, which does without. `asked.py` has what is learned from,
`student.py` the quantised LM as torch trains it.
"""
