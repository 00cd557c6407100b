"""Reading and writing: whole or not at all, and nothing outside its folder."""
