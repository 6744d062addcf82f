"""What options can be set to, by name: for those who only list them, as `--help` does, without what they stand for."""

# Hendrycks & Dietterich (2019): the fifteen of their benchmark, and the four that they kept for validation.
BENCHMARK = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CORRUPTIONS = BENCHMARK + EXTRA
# Mintun et al. (2021): the ten of CIFAR-10-C-bar in their published order, and the five that only ImageNet-C-bar has.
BAR = (
    "blue_noise_sample", "checkerboard_cutout", "inverse_sparkles", "pinch_and_twirl", "ripple", "brownish_noise",
    "circular_motion_blur", "lines", "sparkles", "transverse_chromatic_abberation",
    "caustic_refraction", "perlin_noise", "plasma_noise", "cocentric_sine_waves", "single_frequency_greyscale",
)  # fmt: skip
ALL, UNSEEN = "all", "bar"  # the words for all of `CORRUPTIONS` that can be used, and for all of `BAR`
SEVERITIES = (1, 2, 3, 4, 5)
PARAMETER_SETS = ("cifar", "tiny-imagenet", "imagenet")

# Of a training; what the recipes are is in `training.arguments`.
RECIPE_NAMES = ("paper-vgg16", "paper-resnet50", "short")
SCHEDULES = ("step", "one-cycle", "cosine", "constant")
AUGMENTATION_NAMES = ("crop-flip", "rotation-flip", "none")
PRECISIONS = ("auto", "no", "fp16", "bf16")
SPREADS = ("auto", "models", "batches")  # what the processes of a launch share out: a study's models, or each batch

NORM_STATISTICS = ("learn", "keep")
ADVERSARIES = ("linf", "l2")  # by the norm in which they are bounded
OPTIMIZER_NAMES = ("sgd", "adamw")  # of a distillation

# Of a list of signatures.
SORTS = ("created_at", "downloads", "last_modified", "likes", "trending_score")
