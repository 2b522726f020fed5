"""What single methods are made of, where it is an article of its own: 4-bit codes, narrow copies of blocks."""
