"""Settings: composed by Hydra, checked before anything heavy is imported."""
