"""Train an image classifier: ``python train.py --help`` tells what can be chosen."""

from discern.commands.cli import train

if __name__ == "__main__":
    train()
