"""Flags of the commands that read a study, each defined once."""

from absl import flags

ACCURACIES = ("top1", "top5", "balanced")
MEASURES = (*ACCURACIES, "same1", "same5", "sdc1", "sdc5", "due", "critical")


def define_measure(values: flags.FlagValues) -> None:
    """Adds ``--metric`` with all that can be counted from stored outcomes."""
    flags.DEFINE_enum(
        "metric",
        None,
        list(MEASURES),
        "What is counted: top1 or top5, the true class first or among the first five; balanced, top1 with all classes "
        "weighed alike; same1 or same5, the first class "
        "is the reference network's, or among its five; sdc1 or sdc5, it is not; due, a logit is not finite; critical, "
        "draws that lose more than --critical_drop (default: the study's).",
        flag_values=values,
    )


def define_images_are(values: flags.FlagValues) -> None:
    """Adds ``--images_are``."""
    flags.DEFINE_enum(
        "images_are",
        "sample",
        ["sample", "all"],
        "Whether the images stand for others like them, or just these are meant: then intervals are over draws alone.",
        flag_values=values,
    )


def define_format(values: flags.FlagValues, *forms: str) -> None:
    """Adds ``--format``, by default of text, Markdown, LaTeX, JSON and CSV."""
    flags.DEFINE_enum(
        "format",
        "text",
        list(forms or ("text", "markdown", "latex", "json", "csv")),
        "Form of the table; json and csv have every number in full.",
        flag_values=values,
    )


def define_perturbation(values: flags.FlagValues, help_text: str) -> None:
    """Adds ``--perturbation``."""
    flags.DEFINE_string("perturbation", None, help_text, flag_values=values)
