"""Where a user's timeline lives, layer by layer. Imports nothing of ours; start at `open.py`."""
