"""CIFAR-10, residual networks for it and their training: what Factor Transfer is tried on."""
