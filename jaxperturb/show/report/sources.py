"""What each perturbation does, in one sentence of a paper, and what is cited for it."""

from collections.abc import Mapping

# Perturbation -> what it does at level f, and the keys of what it is taken from.
DEFINITIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "synapse_knockout": (
        "⌊f·n⌋ of the n entries of each tensor (weight and bias apart), chosen at random without replacement, are "
        "set to zero",
        ("cheney2017",),
    ),
    "node_knockout": (
        "⌊f·u⌋ of a layer's u units, chosen at random without replacement, are silenced: their incoming weights, "
        "their bias and, where a norm follows, its scale and shift are set to zero",
        ("cheney2017",),
    ),
    "gaussian_noise": (
        "to every entry of each tensor (weight and bias apart) an independent normal number is added, whose "
        "standard deviation is f times that of the tensor",
        ("cheney2017",),
    ),
    "resample": (
        "⌊f·n⌋ of the n entries of each tensor, chosen at random, take the values of ⌊f·n⌋ others chosen at random "
        "from the same tensor",
        ("cheney2017",),
    ),
    "shuffle": (
        "⌊f·n⌋ of the n entries of each tensor, chosen at random, change places among themselves",
        ("frankle2021",),
    ),
    "sign_flip": (
        "⌊f·n⌋ of the n entries of each tensor, chosen at random, change their sign",
        ("zhou2019",),
    ),
    "rerandomize": (
        "⌊f·n⌋ of the n entries of each tensor, chosen at random, are set back to an initialiser's draw",
        ("zhang2019",),
    ),
    "magnitude_knockout": (
        "the ⌊f·n⌋ entries of each tensor that come first by magnitude are set to zero, the smallest first unless "
        "said otherwise",
        ("han2015",),
    ),
    "saliency_knockout": (
        "the ⌊f·n⌋ entries of each tensor that come first by |weight·gradient of the loss| are set to zero, the "
        "largest first unless said otherwise",
        ("molchanov2017", "lee2019"),
    ),
    "mean_ablation": (
        "⌊f·u⌋ of a layer's u units, chosen at random, are fixed at their mean activation",
        ("morcos2018",),
    ),
    "quantize": (
        "every entry is rounded to f bits, symmetrically about zero",
        ("jacob2018",),
    ),
    "bit_flip": (
        "each stored bit of the weights is flipped with probability f, the number of flips drawn from the binomial "
        "distribution",
        ("reagen2018", "li2017"),
    ),
    "stuck_at": (
        "each stored bit of the weights sticks at one value with probability f, the number of faults drawn from the"
        " binomial distribution",
        ("li2017",),
    ),
    "replay": (
        "the faults of a recorded list are injected, at level 1 all of them",
        (),
    ),
}

# An option that is not the default -> how it changes the sentence.
OPTIONS: Mapping[tuple[str, str], str] = {
    ("include_bias", "false"): "biases left alone",
    ("include_norm", "true"): "and the scale and shift of norms likewise",
    ("among", "nonzero"): "n counting the entries that are not zero already",
    ("axis", "in"): "the units being the layer's inputs, of which the weights that read them are set to zero",
    ("order", "largest"): "the largest first",
    ("order", "smallest"): "the smallest first",
    ("granularity", "unit"): "with a scale for each unit",
}

REFERENCES: Mapping[str, str] = {
    "cheney2017": "Cheney N., Schrimpf M., Kreiman G. (2017). On the robustness of convolutional neural networks to"
    " internal architecture and weight perturbations. arXiv:1703.08245.",
    "frankle2021": "Frankle J., Dziugaite G. K., Roy D. M., Carbin M. (2021). Pruning neural networks at "
    "initialization: why are we missing the mark? ICLR. arXiv:2009.08576.",
    "gallas2007": "Gallas B. D., Pennello G. A., Myers K. J. (2007). Multireader multicase variance analysis for "
    "binary data. Journal of the Optical Society of America A 24(12), B70-B80.",
    "han2015": "Han S., Pool J., Tran J., Dally W. J. (2015). Learning both weights and connections for efficient "
    "neural networks. NeurIPS. arXiv:1506.02626.",
    "holm1979": "Holm S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of "
    "Statistics 6(2), 65-70.",
    "jacob2018": "Jacob B., Kligys S., Chen B., Zhu M., Tang M., Howard A., Adam H., Kalenichenko D. (2018). "
    "Quantization and training of neural networks for efficient integer-arithmetic-only inference. CVPR. "
    "arXiv:1712.05877.",
    "lee2019": "Lee N., Ajanthan T., Torr P. H. S. (2019). SNIP: single-shot network pruning based on connection "
    "sensitivity. ICLR. arXiv:1810.02340.",
    "li2017": "Li G., Hari S. K. S., Sullivan M., Tsai T., Pattabiraman K., Emer J., Keckler S. W. (2017). "
    "Understanding error propagation in deep learning neural network (DNN) accelerators and applications. SC.",
    "molchanov2017": "Molchanov P., Tyree S., Karras T., Aila T., Kautz J. (2017). Pruning convolutional neural "
    "networks for resource efficient inference. ICLR. arXiv:1611.06440.",
    "morcos2018": "Morcos A. S., Barrett D. G. T., Rabinowitz N. C., Botvinick M. (2018). On the importance of "
    "single directions for generalization. ICLR. arXiv:1803.06959.",
    "reagen2018": "Reagen B., Gupta U., Pentecost L., Whatmough P., Lee S. K., Mulholland N., Brooks D., Wei G.-Y. "
    "(2018). Ares: a framework for quantifying the resilience of deep neural networks. DAC.",
    "wilson1927": "Wilson E. B. (1927). Probable inference, the law of succession, and statistical inference. "
    "Journal of the American Statistical Association 22(158), 209-212.",
    "zhang2019": "Zhang C., Bengio S., Singer Y. (2019). Are all layers created equal? arXiv:1902.01996.",
    "zhou2019": "Zhou H., Lan J., Liu R., Yosinski J. (2019). Deconstructing lottery tickets: zeros, signs, and the"
    " supermask. NeurIPS. arXiv:1905.01067.",
    "zou2008": "Zou G. Y., Donner A. (2008). Construction of confidence intervals about effect measures: a general "
    "approach. Statistics in Medicine 27(10), 1693-1702.",
}
