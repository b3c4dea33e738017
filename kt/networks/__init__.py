"""The paper's networks as plain modules, their stacked weights, and their symmetries."""
