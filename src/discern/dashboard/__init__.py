"""What TensorBoard shows of a run besides its scalars, and the command that starts it."""
