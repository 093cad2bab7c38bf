"""Every tolerance of the project, with its reason. What is not here is compared bit for bit."""

# Packed against padded (or against the reference), float32, on vectors of length 1. Another shape of
# the same matrix product rounds differently; measured at most 3e-7 over 11,000 texts.
PACKED_FLOAT32 = 1e-6

# The same in float64: the difference shrinks by the ratio of the two types' rounding, which tells
# rounding from a bug. Measured at most 1e-15.
PACKED_FLOAT64 = 1e-14
