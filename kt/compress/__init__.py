"""Other ways to a small block, to hold the translation against.

They write the same small blocks as a translator, between the same former and latter blocks.
"""
