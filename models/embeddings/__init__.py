"""How items become vectors: one room for each way."""
