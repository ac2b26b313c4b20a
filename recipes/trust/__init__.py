"""Pictures that no bundle was made for, and what the gate makes of them. Open first: `foreign.py`."""
