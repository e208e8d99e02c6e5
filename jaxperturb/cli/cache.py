"""``jaxperturb cache``: the preprocessed images that are kept on disk."""

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_bool(
        "empty", False, "Remove all of them; they are made again when they are needed.", flag_values=values
    )
    define_debug(values)


def _run(values: flags.FlagValues) -> None:
    from jaxperturb.data.cache import pixel_cache

    cache = pixel_cache()
    if cache is None:
        print("no images are kept: JAXPERTURB_CACHE_GB is 0")
    elif values.empty:
        print(f"{cache.folder}: {_size(cache.empty())} freed")
    else:
        entries = cache.entries()
        for entry in entries:
            print(f"{_size(entry.size):>9}  {entry.name}")
        total = sum(entry.size for entry in entries)
        print(f"{_size(total):>9}  of at most {_size(cache.limit)} in {cache.folder}")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


COMMAND = Command(
    name="cache",
    summary="Lists the preprocessed images that are kept on disk, or removes them.",
    details="Pictures are decoded, resized and cropped once; each later run reads the pixels. They are kept under "
    "$JAXPERTURB_CACHE (else the user's cache folder), and take up to $JAXPERTURB_CACHE_GB gigabytes (10 by default; 0 "
    "keeps none).",
    examples=(("what is kept", "cache"), ("remove it", "cache --empty")),
    define=_define,
    run=_run,
)
