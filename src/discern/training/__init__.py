"""What happens around training: what is built for it, and Lightning's callbacks."""
