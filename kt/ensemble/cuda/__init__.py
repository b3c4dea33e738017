"""Triton kernels of `kt.ensemble.cuda_engine`; importing a module of this folder needs Triton.

Every kernel works on tensors of (rows, lanes). A lane is a network: the innermost dimension of
every array, so that a warp reads 32 networks' values of one place in one go. A row is a stretch of
`TILE` neighbouring positions in one row of one image's map. A thread thus computes a tile of one
network's map in registers, held in tuples; all loops over a tile are unrolled.

Arrays are (packs, channels, images * positions, lanes), without borders. Nothing is summed across
threads: every row leaves its own partial sum, (packs, sums, rows, lanes), and the kernel that needs
the total adds them up in a fixed order. Results hence depend neither on how many rows and lanes
share a program nor on the networks alongside.
"""
