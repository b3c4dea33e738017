"""Pairs of large and small blocks: generated, stored, augmented."""
