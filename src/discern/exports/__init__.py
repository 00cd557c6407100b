"""Models that leave discern: files of other formats, with preprocessing inside, and their proof."""
