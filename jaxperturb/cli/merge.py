"""``jaxperturb merge``: joins the stores of one study that several machines have filled."""

import sys
from pathlib import Path

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug
from jaxperturb.errors import UsageError


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "out", None, "Where the joined store goes: a file.sqlite, or a folder (required).", flag_values=values
    )
    define_debug(values)


def _run(values: flags.FlagValues, *stores: str) -> None:
    if values.out is None:
        raise UsageError("merge needs --out, such as: jaxperturb merge runs/a runs/b --out=runs/joined")
    from jaxperturb.study.merge import merge_stores
    from jaxperturb.study.status import read_status

    out = _file(values.out)
    merged = merge_stores([_file(store) for store in stores], out)
    status = read_status(out)
    print(
        f"{out}: {status.done:,} of {status.planned:,} lesions of {status.study.network} on "
        f"{status.study.images:,} images, from {len(stores)} stores"
    )
    if merged.disagreeing:
        print(
            f"warning: stores disagree on {merged.disagreeing:,} outcomes (on two kinds of device, predictions that "
            "hang on the last bit do); those of the store named first were taken",
            file=sys.stderr,
        )


def _file(text: str) -> Path:
    """Returns the store that is meant by a file, or by a study's folder."""
    from jaxperturb.show.results import STORE_NAME

    path = Path(text)
    return path / STORE_NAME if path.is_dir() or path.suffix != ".sqlite" else path


COMMAND = Command(
    name="merge",
    summary="Joins stores of one study, such as its shares from several machines.",
    details="Stores of other studies are refused, with the difference. The stores themselves stay as they are.",
    examples=(
        ("three shares of a study, each computed with --shard", "merge runs/a runs/b runs/c --out=runs/joined"),
        ("stores by themselves", "merge a.sqlite b.sqlite --out=c.sqlite"),
    ),
    define=_define,
    run=_run,
    arguments=("STORE...",),
)
