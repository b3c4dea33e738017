"""What needs no translator, and statistics over networks."""
