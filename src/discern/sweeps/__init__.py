"""Sweeps: many runs that differ in a few settings, and the answer that they give together."""
