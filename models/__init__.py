"""What the models are, and what training hands to serving."""
