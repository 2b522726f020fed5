"""How an attached method is trained and kept: the loop, texts of the user's own, and adapter files."""
