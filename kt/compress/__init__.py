"""Other ways to a small network, to hold the translation against.

Pruning writes the same small blocks as a translator, between the same former and latter blocks.
Distillation and Factor Transfer are losses with which a student is trained.
"""
