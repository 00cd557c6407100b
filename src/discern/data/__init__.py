"""Data sets: where their files come from, how they are split, and how batches are cut from them."""
