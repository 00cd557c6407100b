"""Data sets that others publish: each is fetched, checked and unpacked."""
