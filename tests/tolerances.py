"""Every tolerance of the tests, with its reason."""

# A loss or gradient of order 1 in float32 that was summed in another order (rows permuted, rows in
# chunks, two processes): some units of 2^-24 = 6e-8, times a scale of 20.
LOSS_REORDERED = 5e-6

# The same in float64, where rounding is eight orders smaller and a mistake would not be.
LOSS_FLOAT64 = 1e-12
