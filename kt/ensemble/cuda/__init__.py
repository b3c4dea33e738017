"""Triton kernels of `kt.ensemble.cuda_engine`; importing a module of this folder needs Triton.

Every kernel works on tensors of (rows, lanes). A lane is a network: the innermost dimension of
every array, so that a warp reads 32 networks' values of one place in one go. A row is a stretch of
`TILE` neighbouring positions in one row of one image's map. A thread thus computes a tile of one
network's map in registers, held in tuples; all loops over a tile are unrolled.

Maps are (packs, images, channels, positions, lanes), without borders. Nothing is summed across
threads: every row leaves its own partial sums, (packs, rows, sums, lanes), and the kernel that
needs the totals adds them up in a fixed order. A network's result hence does not depend on those
alongside.
"""
