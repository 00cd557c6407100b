"""What a run's folder holds, and finding runs."""
