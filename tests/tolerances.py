"""Every tolerance of the tests, with its reason. Where none is named, bits are compared."""

# The packed layout sums in another order than the padded one; both are float32.
PACKED = 1e-6
