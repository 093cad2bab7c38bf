"""Every tolerance of the project, with its reason. What is not here is compared bit for bit."""

import torch

# ---- vectors of length 1 ------------------------------------------------------------------------

# Packed against padded (or against the reference), float32: another shape of the same matrix product
# rounds differently. Measured at most 3e-7 over 11,000 texts. The same holds for a similarity, and for
# the padded layout in batches of other texts.
PACKED_FLOAT32 = 1e-6

# The same in float64: the difference shrinks by the ratio of the two types' rounding, which tells
# rounding from a bug. Measured at most 1e-15.
PACKED_FLOAT64 = 1e-14

# Attention written out by hand against torch's kernel, float64: the softmax and its product are summed
# in another order.
ATTENTION_BY_HAND = 1e-13

# float32 against vectors stored from a float64 computation: the whole rounding error of a forward
# pass, on any processor. Measured 3e-7 with AVX-512.
GOLDEN_FLOAT32 = 2e-6

# A score of two float32 vectors in a product of another shape, relative.
SCORE_IN_CHUNKS = 1e-6

# The cosine distance of a tiny model's vectors in float16 from those in float32. Measured 1.3e-7.
FLOAT16_DISTANCE = 1e-5

# The mean distance of bfloat16's vectors from float32's, as a share of what the reference's own bfloat16 has.
# Measured 0.98 on 400 STS sentences; on few texts it scatters by some per cent.
BFLOAT16_BESIDE_REFERENCE = 1.1

# ---- the fast engine ----------------------------------------------------------------------------

# The length of the difference between its token vectors and the plain encoder's, relative to these: a product of
# another shape rounds differently. Measured on all-MiniLM-L6-v2: 1.1e-6 in float32, 1.5e-15 in float64, 0.009 in
# bfloat16, 0.0012 in float16. Models with random weights amplify it; a head left out is 0.1.
ENGINE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 5e-2, torch.float16: 5e-3}

# The same for weights in int8, which are another model: measured 0.07. It tells a mistake, not a change.
ENGINE_INT8 = 0.5

# ---- int8 weights -------------------------------------------------------------------------------

# What int8 weights may cost: the mean cosine with float32's vectors, and that of the worst text. Measured 0.9986
# and 0.9885 on STS-B's test set (Spearman 0.8196 in place of 0.8203), 0.9987 and 0.9977 on 120 docstrings.
INT8_MEAN_COSINE = 0.997
INT8_COSINE = 0.98

# ---- training -----------------------------------------------------------------------------------

# Gradients of the packed layout against the padded one's, float64, with values up to about 10.
GRADIENT_FLOAT64 = 1e-12

# A loss or gradient of order 1 in float32 that was summed in another order (rows permuted, rows in
# chunks, two processes): some units of 2^-24 = 6e-8, times a scale of 20.
LOSS_REORDERED = 5e-6

# The same in float64, where rounding is eight orders smaller and a mistake would not be.
LOSS_FLOAT64 = 1e-12

# A run by two processes, which add up a gradient's halves in another order than one does (measured:
# losses 5e-7, the update's relative L2 2e-5), or in the packed layout. Adam divides by the gradient's
# size, which makes rounding visible where it is near zero; a real error, such as a gradient that is not
# averaged, is 0.01 and more.
TRAINING_REORDERED = 3e-4

# What a new encoder starts from beside what BERT starts from, relative and absolute: two draws of some hundred numbers.
INITIAL_STD = 0.2
INITIAL_MEAN = 0.01

# ---- looking inside -----------------------------------------------------------------------------

# A score against the sum of its token pairs: the sum is taken in float64, the score is rounded by a
# forward pass in float32. Measured at most 2e-7 for cosines.
ATTRIBUTION_SUM = 1e-6

# One entry of it, 0.002, against the float32 token vectors' own product. Measured 1e-10.
TOKEN_PAIR = 1e-8

# A gradient in float64 against the difference of two values 2e-6 apart, relative: the values' last digits, 1e-16,
# and the step's third-order term. And where the gradient is next to nothing, absolute.
FINITE_DIFFERENCE = 1e-5
FINITE_DIFFERENCE_NEAR_ZERO = 1e-8

# A probability that the page keeps in one byte: a step of it.
ONE_BYTE = 0.004

# Integrated gradients at the default steps: the share of score - baseline_score that the values miss.
# Measured at most 0.2 % over 67 pairs of 5 to 100 tokens, three baselines.
COMPLETENESS = 0.01

# A figure of a comparison of two models, computed in float64 from the same float32 numbers, in sums of
# another order. Measured 2e-16.
FIGURE_FLOAT64 = 1e-12

# Linear CKA from sums over rows, against the formula with kernels, float64: what is left are small
# differences of large sums. Measured at most 9e-13 with rows 10,000 from the mean, and 3e-12 between
# layers that are nearly the same.
CKA = 1e-9

# ---- evaluation and documents -------------------------------------------------------------------

# A metric of the packed layout's vectors beside the padded one's, on a handful of pairs: a correlation
# amplifies the rounding of vectors (measured 1.1e-6 on six pairs).
PACKED_METRIC = 5e-6

# A metric of a resample, counted from the scores of all items, against the metric of the resampled texts: float32
# scores of batches of another shape.
RESAMPLED = 1e-7

# The percentiles of 2,000 resamples scatter around those of infinitely many by about 3 % of the
# interval's half width; the widest of these intervals has a half width of 0.05.
BOOTSTRAP_PERCENTILE = 0.005

# What is shown with four digits after the point: half of the last one, and a float32 number's own rounding.
FOUR_DIGITS = 6e-5

# Numbers of the README that were printed with three or four digits: one step of the last one.
PRINTED = 1.1e-3

# ---- the lesson (scripts/lesson) ----------------------------------------------------------------

# A student's forward pass of one text, in plain matrix products, against the model's, after any layer:
# sums in another order, of numbers up to about 10. Measured 3e-6 and 5e-15.
BY_HAND_FLOAT32 = 1e-5
BY_HAND_FLOAT64 = 1e-12

# Accuracies and MRR on the docstrings of whatever versions of Python, numpy and torch there are: 300 or 400
# texts have a standard error of 0.03, and training turns rounding into single ranks.
LESSON_DOCSTRINGS = 0.08

# ---- benchmark ----------------------------------------------------------------------------------

# Mean and smallest cosine with the float32 reference for a contender of scripts/benchmark to be ranked.
# Each lets the libraries' own rounding pass and stops a wrong mask, pooling or precision.
BENCHMARK_COSINE = {
    "fp32": (1 - 1e-7, 1 - 1e-6),
    "bf16": (0.9995, 0.998),
    "int8": (0.98, 0.9),
}
