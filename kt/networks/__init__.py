"""The paper's networks as plain modules, their stacked weights, and what leaves their function unchanged."""
