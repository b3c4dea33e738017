"""Other methods of compression, to compare translation with."""
