"""Image-classification experiments on PyTorch Lightning and Hydra that explain themselves."""

__version__ = "0.1.0"
