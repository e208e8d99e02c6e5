"""``jaxperturb networks``: the trained networks that come along, and the kinds that can be built."""

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.lists import print_list
from jaxperturb.cli.options import define_debug


def _run(values: flags.FlagValues) -> None:
    del values
    from jaxperturb.checkpoints import bundled_summaries
    from jaxperturb.checkpoints.known import known
    from jaxperturb.networks.catalogue import ARCHITECTURES

    print("Trained (--weights=NAME):")
    print_list({f"  {name}": line for name, line in bundled_summaries().items()})
    print("\nPublic ('jaxperturb convert NAME' downloads one, then --weights=NAME):")
    print_list({f"  {record.name}": record.summary for record in known().values()})
    print("\nArchitectures (that weights of your own may have):")
    print_list({f"  {one.name}": one.summary for one in ARCHITECTURES.values()})


COMMAND = Command(
    name="networks",
    summary="Lists the networks, one line each.",
    details="A trained one goes after --weights; so does a checkpoint folder of your own.",
    examples=(("what is there", "networks"), ("look into one", "layers --weights=alexnet-digits")),
    define=define_debug,
    run=_run,
)
