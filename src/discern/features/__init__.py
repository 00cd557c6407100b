"""A frozen backbone's features: computed once, kept, and served instead of the images."""
