"""Every tolerance of the project, with its reason. What is not here is compared bit for bit."""

# Packed against padded (or against the reference), float32, on vectors of length 1. Another shape of
# the same matrix product rounds differently; measured at most 3e-7 over 11,000 texts.
PACKED_FLOAT32 = 1e-6

# The same in float64: the difference shrinks by the ratio of the two types' rounding, which tells
# rounding from a bug. Measured at most 1e-15.
PACKED_FLOAT64 = 1e-14

# Gradients of the packed layout against the padded one's, float64, with values up to about 10.
GRADIENT_FLOAT64 = 1e-12

# Attention written out by hand against torch's kernel, float64, on vectors of length 1: the softmax
# and its product are summed in another order.
ATTENTION_BY_HAND = 1e-13

# float32 against vectors stored from a float64 computation, on vectors of length 1: the whole
# rounding error of a forward pass, on any processor. Measured 3e-7 with AVX-512.
GOLDEN_FLOAT32 = 2e-6

# Numbers of the README that were printed with three or four digits: one step of the last one.
PRINTED = 1.1e-3
