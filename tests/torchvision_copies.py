"""torchvision's networks written out apart from the package's own tables: shapes, random weights, modules of torch.nn."""

import math

import numpy as np

# torchvision's own tables: output channels, "M" a pooling.
VGG = {
    "vgg11": [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "vgg13": [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "vgg16": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    "vgg19": [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}
NAMES = ["alexnet", *VGG, *(f"{name}_bn" for name in VGG)]
PARAMETERS = {  # torchvision's documentation
    "alexnet": 61100840,
    "vgg11": 132863336,
    "vgg13": 133047848,
    "vgg16": 138357544,
    "vgg19": 143667240,
    "vgg11_bn": 132868840,
    "vgg13_bn": 133053736,
    "vgg16_bn": 138365992,
    "vgg19_bn": 143678248,
}


def wide(units, width):
    return max(1, math.floor(units * width + 0.5))


def features(name, width=1.0, channels=3):
    """The feature layers in torchvision's order: ("conv", in, out, side, stride, padding), ("norm", n), ("relu",), ("pool", side)."""
    if name == "alexnet":
        sizes = [(64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)]
        layers = []
        for i, (units, side, stride, padding) in enumerate(sizes):
            layers += [("conv", channels, wide(units, width), side, stride, padding), ("relu",)]
            layers += [("pool", 3)] if i in (0, 1, 4) else []
            channels = wide(units, width)
        return layers
    layers = []
    for item in VGG[name.removesuffix("_bn")]:
        if item == "M":
            layers.append(("pool", 2))
            continue
        layers.append(("conv", channels, wide(item, width), 3, 1, 1))
        channels = wide(item, width)
        layers += [("norm", channels), ("relu",)] if name.endswith("_bn") else [("relu",)]
    return layers


def shapes(name, classes=1000, width=1.0, dense_width=None, pooled=None, channels=3):
    """Shapes by torchvision's names, written out apart from the package's own tables."""
    made, last = {}, channels
    for i, layer in enumerate(features(name, width, channels)):
        if layer[0] == "conv":
            made[f"features.{i}.weight"] = (layer[2], layer[1], layer[3], layer[3])
            made[f"features.{i}.bias"] = (layer[2],)
            last = layer[2]
        elif layer[0] == "norm":
            made |= {f"features.{i}.{leaf}": (layer[1],) for leaf in ("weight", "bias", "running_mean", "running_var")}
            made[f"features.{i}.num_batches_tracked"] = ()
    hidden = wide(4096, width if dense_width is None else dense_width)
    pooled = pooled or (6 if name == "alexnet" else 7)
    places = (1, 4, 6) if name == "alexnet" else (0, 3, 6)
    ins, outs = (last * pooled**2, hidden, hidden), (hidden, hidden, classes)
    for i, n, m in zip(places, ins, outs, strict=True):
        made |= {f"classifier.{i}.weight": (m, n), f"classifier.{i}.bias": (m,)}
    return made


def weights(name, seed=0, **sizes):
    """He-scaled random weights; biases and statistics too, so that every tensor matters."""
    rng, made = np.random.default_rng(seed), {}
    for key, shape in shapes(name, **sizes).items():
        if key.endswith("num_batches_tracked"):
            made[key] = np.array(3)
        elif key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
            made[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            fan = math.prod(shape[1:]) if len(shape) > 1 else 0
            made[key] = (rng.standard_normal(shape) * (math.sqrt(2 / fan) if fan else 0.3)).astype(np.float32)
    return made


SMALL = {"classes": 7, "width": 0.125, "dense_width": 0.0625}


def small(name):
    """A narrow network whose first dense layer sees a map of 2 × 2, so that its order of inputs counts."""
    return weights(name, **SMALL, pooled=2)


def torch_network(torch, name, **sizes):
    """Torchvision's module, built layer by layer (torchvision itself has no build for the CPU alone)."""
    nn = torch.nn
    make = {
        "conv": lambda i, o, side, stride, padding: nn.Conv2d(i, o, side, stride, padding),
        "norm": nn.BatchNorm2d,
        "relu": nn.ReLU,
        "pool": lambda side: nn.MaxPool2d(side, 2),
    }
    all_shapes = shapes(name, **sizes)
    layers = nn.Sequential(*(make[kind](*rest) for kind, *rest in features(name, sizes.get("width", 1.0))))
    places = (1, 4, 6) if name == "alexnet" else (0, 3, 6)
    dense = {i: nn.Linear(*reversed(all_shapes[f"classifier.{i}.weight"])) for i in places}
    relus = (2, 5) if name == "alexnet" else (1, 4)
    classifier = nn.Sequential(*(dense.get(i) or (nn.ReLU() if i in relus else nn.Dropout()) for i in range(7)))
    network = nn.Module()
    network.features, network.classifier = layers, classifier
    network.forward = lambda x: classifier(torch.flatten(layers(x), 1))
    return network.eval()


def squeezenet_layers(version, width=1.0, channels=3):
    """Version, then ("conv", in, out, side, stride), ("relu",), ("pool",), ("fire", in, squeeze, expand), as torchvision has them."""
    first, side = (96, 7) if version == "1.0" else (64, 3)
    small, large = [(16, 64), (16, 64), (32, 128), (32, 128)], [(48, 192), (48, 192), (64, 256), (64, 256)]
    order = {
        "1.0": [*small[:3], "M", small[3], *large[:3], "M", large[3]],
        "1.1": [*small[:2], "M", *small[2:], "M", *large],
    }[version]
    layers = [("conv", channels, wide(first, width), side, 2), ("relu",), ("pool",)]
    seen = wide(first, width)
    for item in order:
        if item == "M":
            layers.append(("pool",))
            continue
        squeeze, expand = (wide(n, width) for n in item)
        layers.append(("fire", seen, squeeze, expand))
        seen = 2 * expand
    return layers, seen


def torch_squeezenet(torch, version, classes=1000, width=1.0, final_padding=0, channels=3):
    """Torchvision's module, whose state dict has torchvision's names."""
    nn = torch.nn

    class Fire(nn.Module):
        def __init__(self, seen, squeeze, expand):
            super().__init__()
            self.squeeze = nn.Conv2d(seen, squeeze, 1)
            self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
            self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

        def forward(self, x):
            x = torch.relu(self.squeeze(x))
            return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)

    make = {
        "conv": lambda i, o, side, stride: nn.Conv2d(i, o, side, stride),
        "relu": nn.ReLU,
        "pool": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
        "fire": Fire,
    }
    layers, seen = squeezenet_layers(version, width, channels)
    last = nn.Conv2d(seen, classes, 1, padding=final_padding)
    network = nn.Module()
    network.features = nn.Sequential(*(make[kind](*rest) for kind, *rest in layers))
    network.classifier = nn.Sequential(nn.Dropout(), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    network.forward = lambda x: torch.flatten(network.classifier(network.features(x)), 1)
    return network.eval()


def randomise(torch, network, seed=0):
    """Gives each tensor of a module seeded values: He-scaled weights; biases and statistics too, so that all matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(3)
            elif tensor.ndim > 1:
                tensor.normal_(0, math.sqrt(2 / tensor[0].numel()), generator=generator)
            elif name.endswith("running_var") or name.replace("weight", "running_var") in network.state_dict():
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.3, generator=generator)
    return network


def pictures(side, count=8, channels=3, seed=1):
    """Images (n, side, side, channels) with large patches, each of its own brightness and colours: noise would look alike."""
    random = np.random.default_rng(seed)
    patches = random.standard_normal((count, 8, 8, channels)) + random.standard_normal((count, 1, 1, channels))
    coarse = patches.repeat(-(-side // 8), axis=1).repeat(-(-side // 8), axis=2)[:, :side, :side]
    return (coarse + 0.3 * random.standard_normal(coarse.shape)).astype(np.float32)


def torch_logits(torch, network, images):
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def agree(logits, expected):
    """Whether logits equal PyTorch's within 1e-4 of their largest magnitude, and the five best classes agree."""
    close = np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    best = [np.argsort(-x, axis=1, kind="stable")[:, :5] for x in (logits, expected)]
    return bool(close and (best[0] == best[1]).all())


def clearly_differ(logits):
    """Whether any two images' logits differ by 100 times the tolerance: else a network that ignores its input would pass."""
    differences = np.abs(logits[:, None] - logits[None]).max(-1)
    return differences[~np.eye(len(logits), dtype=bool)].min() > 0.01 * np.abs(logits).max()
