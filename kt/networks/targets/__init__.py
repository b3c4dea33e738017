"""Small blocks of other kinds than the paper's: a module each, with a `small_block`."""
