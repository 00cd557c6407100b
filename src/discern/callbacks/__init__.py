"""What happens around training."""
