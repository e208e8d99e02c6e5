"""``jaxperturb verify NAME``: whether a file of weights is what torchvision published, and is read rightly."""

from absl import flags

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.errors import CheckpointError, UsageError, did_you_mean


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "weights", None, "The file or checkpoint folder, where it is not the one downloaded.", flag_values=values
    )
    options.define_device(values)
    options.define_debug(values)


def _run(values: flags.FlagValues, name: str) -> None:
    backend.start(values.device)
    from jaxperturb.checkpoints import load_network
    from jaxperturb.data.verify import known_answers, verify

    answers = known_answers()
    if name not in answers:
        known = ", ".join(answers)
        raise UsageError(f"there is no known answer for {name!r}{did_you_mean(name, answers)}; there are {known}")
    found = verify(load_network(values.weights or name), answers[name])
    measured = f"largest difference {found.difference:.2g} of features up to {found.largest:.3g}"
    if not found.agrees:
        raise CheckpointError(f"these weights are not torchvision's {name}, or are not read rightly: {measured}")
    print(f"{name}: agrees with torchvision on the photograph, {measured}")


COMMAND = Command(
    name="verify",
    summary="Checks real weights of torchvision against a known answer.",
    details="NAME is alexnet, vgg11 or vgg11_bn. The features of a photograph that comes with jaxperturb must be those "
    "that torchvision's own weights give.",
    examples=(
        ("weights that 'jaxperturb convert alexnet' downloaded", "verify alexnet"),
        ("a file that you have", "verify vgg11 --weights=vgg11-8a719046.pth"),
    ),
    define=_define,
    run=_run,
    arguments=("NAME",),
)
