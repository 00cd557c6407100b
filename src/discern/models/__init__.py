"""What the network is: plain ``nn.Module`` classes, and the classifier that trains any of them."""
