"""What TensorBoard shows of a run besides its scalars."""
