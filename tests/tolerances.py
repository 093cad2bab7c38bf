"""Every tolerance of the tests, with its reason. What is not here is compared for equal bits."""

# Binary classification encodes each text once; the reference in the order of Python's hashes, we in
# the order of the texts. Other batches mean other padding, and float32 rounding of about 1e-7.
BATCH_ORDER = 1e-6

# The packed layout rounds otherwise than the padded one, about 1e-7 in a similarity.
PACKED_METRIC = 1e-6

# The percentiles of 2,000 resamples scatter around those of infinitely many by about 3 % of the
# interval's half width; the widest of these intervals has a half width of 0.05.
BOOTSTRAP_PERCENTILE = 0.005

# A loss or gradient of order 1 in float32 that was summed in another order (rows permuted, rows in
# chunks, two processes): some units of 2^-24 = 6e-8, times a scale of 20.
LOSS_REORDERED = 5e-6

# The same in float64, where rounding is eight orders smaller and a mistake would not be.
LOSS_FLOAT64 = 1e-12

# Two processes add up a gradient's halves in another order than one process does (measured: losses
# 5e-7, the update's relative L2 2e-5), and the packed layout rounds otherwise than the padded one.
# Adam divides by the gradient's size, which makes rounding visible where it is near zero; a real
# error, such as a gradient that is not averaged, is 0.01 and more.
TRAINING_REORDERED = 3e-4

# The packed layout sums in another order than the padded one; both are float32.
PACKED = 1e-6
