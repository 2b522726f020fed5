"""How an attached method is trained and kept: the loop, models and texts of the user's own, and adapter files."""
