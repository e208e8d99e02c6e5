"""One step of training under a lesion: what is held stays, what does not learn stays, the rest moves as it should."""

from dataclasses import replace
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sample_networks import CLASSES, COLOUR, GREY, SAMPLES, dense, plain

import jaxperturb as jp
from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.errors import PerturbationError, RecoveryError
from jaxperturb.perturb.catalogue import ask
from jaxperturb.recovery.batches import TrainingImages, augmented, batch_places, parse_augmentations
from jaxperturb.recovery.injury import grown, injure
from jaxperturb.recovery.learning import learning_leaves
from jaxperturb.recovery.optimizers import Optimizer
from jaxperturb.recovery.passing import check_dropout, parse_damage
from jaxperturb.recovery.step import Recipe
from jaxperturb.recovery.training import Training
from jaxperturb.trees import leaf_names

OPTIMIZERS = {
    "sgd": Optimizer("sgd", 0.05, momentum=0.0),
    "momentum": Optimizer("sgd", 0.05, momentum=0.9),
    "decay": Optimizer("sgd", 0.05, weight_decay=0.1),
    "adam": Optimizer("adam", 0.01),
    "adamw": Optimizer("adam", 0.01, weight_decay=0.1, schedule="cosine", warmup=2),
}
MLP = {"first": dense(64, 20), "last": dense(20, CLASSES)}


def images_of(shape, n=40, seed=0):
    random = np.random.default_rng(seed)
    data = from_arrays(random.normal(size=(n, *shape)).astype(np.float32), np.arange(n) % CLASSES)
    return TrainingImages.of(prepare(data, None), 10**9)


def trained(network, optimizer, target, *, steps=8, held=True, train="all", draws=1, together=True, **recipe):
    """Returns the trees before and after some steps, and the injuries, for each draw."""
    transformation = optimizer.build(steps) if isinstance(optimizer, Optimizer) else optimizer
    own = Recipe.of(network, transformation, recipe.get("damage"), recipe.get("dropout", False))
    shape = network.image_shape
    training = Training(own, images_of(shape), 0, 10, recipe.get("augment", ()), lambda _: None)
    asked = ask(recipe.get("perturbation", "synapse_knockout"))
    injuries = [injure(network, asked, target, Decimal("0.5"), draw, 0, {}) for draw in range(draws)]
    learning = learning_leaves(network, train, target)
    copies = [own.start(injury, learning, held) for injury in injuries]
    shared = own.shared(network, learning, injuries[0])
    numbers = list(range(draws))
    if together:
        copies, _ = training.advance(copies, shared, numbers, 0, steps)
    else:
        copies = [training.advance([c], shared, [n], 0, steps)[0][0] for c, n in zip(copies, numbers, strict=True)]
    return injuries, [own.tree(copy.own, copy.fixed, shared) for copy in copies]


def leaves(tree):
    return dict(zip(leaf_names(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def perceptron(params, images):
    x = jnp.tanh(images.reshape(len(images), -1) @ params["first"]["w"] + params["first"]["b"])
    return x @ params["last"]["w"] + params["last"]["b"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_held_weights_are_exactly_zero_and_all_others_move(name):
    network = plain(perceptron, MLP)
    (injury,), (after,) = trained(network, OPTIMIZERS[name], "first")
    gone = np.asarray(injury.held[leaf_names(network.params).index("first/w")])
    assert gone.sum() == 64 * 20 // 2
    weights = leaves(after)["first/w"]
    assert (weights[gone] == 0).all()
    assert not np.signbit(weights[gone]).any()
    before = leaves(network.params)["first/w"]
    assert (weights[~gone] != before[~gone]).mean() > 0.99


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_held_weights_that_are_not_zero_keep_their_bits(name):
    """Weight decay pulls at them, unlike at zeros."""
    network = plain(perceptron, MLP)
    (injury,), (after,) = trained(network, OPTIMIZERS[name], "first", perturbation="resample")
    held = np.asarray(injury.held[leaf_names(network.params).index("first/w")])
    assert 0 < held.sum() < held.size
    damaged, weights = leaves(injury.params)["first/w"], leaves(after)["first/w"]
    np.testing.assert_array_equal(weights[held], damaged[held])
    assert (weights[~held] != damaged[~held]).mean() > 0.99


def test_a_held_weight_that_was_zero_before_is_held_too():
    network = plain(perceptron, MLP)
    params = jax.tree.map(jnp.zeros_like, network.params)
    injury = injure(replace(network, params=params), ask("synapse_knockout"), "first", Decimal("0.5"), 0, 0, {})
    other = injure(network, ask("synapse_knockout"), "first", Decimal("0.5"), 0, 0, {})
    assert injury.damaged == 64 * 20 // 2 + 10
    for index, mask in injury.held.items():
        np.testing.assert_array_equal(mask, other.held[index])


def test_free_weights_grow_back():
    network = plain(perceptron, MLP)
    (injury,), (after,) = trained(network, OPTIMIZERS["adam"], "first", held=False)
    gone = np.asarray(injury.held[leaf_names(network.params).index("first/w")])
    assert (leaves(after)["first/w"][gone] != 0).all()


@pytest.mark.parametrize(
    ("train", "still"),
    [("damaged", {"fc2", "fc10"}), ("others", {"conv1", "conv1_norm"}), ("fc*", {"conv1", "conv1_norm"})],
)
def test_what_does_not_learn_is_the_same_bits(train, still):
    network = SAMPLES["linen"]()
    (injury,), (after,) = trained(network, OPTIMIZERS["adamw"], "conv1", steps=3, train=train)
    before, now = leaves(injury.params), leaves(after)
    for name in before:
        stays = name.split("/")[1] in still or name.startswith("batch_stats")
        assert np.array_equal(before[name], now[name]) == stays, name


def test_statistics_of_norms_stay_when_everything_learns():
    network = SAMPLES["linen"]()
    _, (after,) = trained(network, OPTIMIZERS["adam"], "conv1", steps=2, train="all")
    for name, leaf in leaves(network.params).items():
        assert np.array_equal(leaf, leaves(after)[name]) == name.startswith("batch_stats"), name


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_copies_trained_together_are_those_trained_one_by_one(name):
    network = SAMPLES["linen"]()
    settings = {"steps": 20, "draws": 3, "augment": ("crop", "flip")}
    _, together = trained(network, OPTIMIZERS[name], "conv1", **settings)
    _, alone = trained(network, OPTIMIZERS[name], "conv1", together=False, **settings)
    for one, other in zip(together, alone, strict=True):
        for leaf, (path, twin) in zip(leaves(one).values(), leaves(other).items(), strict=True):
            np.testing.assert_allclose(leaf, twin, rtol=0, atol=1e-4 * np.abs(twin).max(), err_msg=path)


def test_a_step_of_sgd_is_the_gradient_of_the_cross_entropy_in_closed_form():
    def linear(params, images):
        return images.reshape(len(images), -1) @ params["last"]["w"] + params["last"]["b"]

    network = plain(linear, {"last": dense(64, CLASSES)})
    (injury,), (after,) = trained(network, optax.sgd(0.3), "last", steps=1)
    data = images_of(GREY)
    x, labels = data.read(batch_places(0, 0, 40, 10))
    x = x.reshape(10, -1).astype(np.float64)
    start = leaves(injury.params)
    logits = x @ start["last/w"] + start["last/b"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(CLASSES)[labels]
    held = np.asarray(injury.held[leaf_names(network.params).index("last/w")])
    want = start["last/w"] - 0.3 * np.where(held, 0, x.T @ shares / 10)
    np.testing.assert_allclose(leaves(after)["last/w"], want, atol=1e-5)


def test_nothing_to_learn_is_said():
    network = plain(perceptron, MLP)
    with pytest.raises(RecoveryError, match="nothing is damaged"):
        learning_leaves(network, "damaged", "")
    with pytest.raises(RecoveryError, match="all layers are damaged"):
        learning_leaves(network, "others", "first+last")
    with pytest.raises(jp.JaxPerturbError, match="did you mean 'first'"):
        learning_leaves(network, "fist", "")


# Batches and how they are varied.


def test_each_image_comes_once_in_each_pass_in_an_order_of_its_own():
    passes = [np.concatenate([batch_places(3, p * 4 + i, 43, 10) for i in range(4)]) for p in range(3)]
    for places in passes:
        assert len(set(places.tolist())) == 40
        assert places.max() < 43
    assert not np.array_equal(passes[0], passes[1])
    assert not np.array_equal(passes[0], np.concatenate([batch_places(4, i, 43, 10) for i in range(4)]))


def test_pixels_are_the_same_whether_they_are_kept_or_not():
    kept = images_of(COLOUR)
    fresh = TrainingImages.of(kept.images, 0)
    assert fresh.pixels is None
    for step in (0, 1, 5):
        places = batch_places(0, step, 40, 10)
        for one, other in zip(kept.read(places), fresh.read(places), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(kept.read(places)[1], kept.images.labels[places])


def test_augmented_images_are_shifted_and_mirrored_ones():
    images = np.random.default_rng(0).normal(size=(64, 16, 16, 2)).astype(np.float32)
    found = np.asarray(augmented(jp.random.key(1), jnp.asarray(images), ("crop", "flip")))
    ways = set()
    for image, varied in zip(images, found, strict=True):
        around = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        matches = [
            (i, j, flip)
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
            if np.array_equal(around[i : i + 16, j : j + 16][:, :: -1 if flip else 1], varied)
        ]
        assert len(matches) == 1
        ways.add(matches[0])
    assert {i for i, _, _ in ways} == {j for _, j, _ in ways} == set(range(5))
    assert {flip for *_, flip in ways} == {False, True}


def test_unknown_augmentations_are_refused():
    assert parse_augmentations("flip, crop") == ("crop", "flip")
    assert parse_augmentations("none") == ()
    with pytest.raises(RecoveryError, match="did you mean 'crop'"):
        parse_augmentations("corp")


# Damage while training, progressive damage, dropout.


def test_damage_that_each_step_draws_anew_is_not_in_the_result():
    network = plain(perceptron, MLP)
    damage = parse_damage(network, "synapse_knockout:0.5@last")
    assert damage.text == "synapse_knockout:0.5@last"
    _, (after,) = trained(network, OPTIMIZERS["sgd"], "first", damage=damage)
    assert (leaves(after)["last/w"] != 0).all()
    masks = [leaves(damage.apply(jax.random.fold_in(jp.random.key(0), i), network.params))["last/w"] for i in (0, 1)]
    assert not np.array_equal(*masks)


def test_gradients_pass_to_the_weights_that_are_left_alone():
    network = plain(perceptron, MLP)
    damage = parse_damage(network, "synapse_knockout:0.5@last")

    def total(params):
        return jnp.sum(damage.apply(jp.random.key(5), params)["last"]["w"])

    damaged = leaves(damage.apply(jp.random.key(5), network.params))["last/w"]
    np.testing.assert_array_equal(jax.grad(total)(network.params)["last"]["w"], damaged != 0)
    assert (damaged == 0).sum() == 100


@pytest.mark.parametrize("text", ["synapse_knockout", "synapse_knockout:0.5", "synapse_knockout@last", ":0.5@last"])
def test_damage_that_is_half_said_is_refused(text):
    with pytest.raises(PerturbationError, match="expected damage such as synapse_knockout:0.5@conv1"):
        parse_damage(plain(perceptron, MLP), text)


def test_damage_that_grows_takes_from_what_was_trained():
    network = plain(perceptron, MLP)
    knockout = ask("synapse_knockout")
    small, large = (injure(network, knockout, "first", Decimal(level), 0, 0, {}) for level in ("0.2", "0.6"))
    other = jax.tree.map(lambda leaf: leaf + 1, network.params)
    after, before = leaves(grown(other, large)), leaves(other)
    for index, name in enumerate(leaf_names(network.params)):
        gone = np.asarray(large.held.get(index, np.zeros(before[name].shape, bool)))
        np.testing.assert_array_equal(after[name], np.where(gone, 0, before[name]))
        if index in small.held:
            assert not (np.asarray(small.held[index]) & ~gone).any()
    noise = injure(network, ask("gaussian_noise"), "first", Decimal(1), 0, 0, {})
    with pytest.raises(RecoveryError, match="removes weights"):
        grown(other, noise)


def test_dropout_acts_only_where_it_is_asked_for():
    import flax.linen as nn

    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool):
            x = nn.relu(nn.Dense(400, name="first")(x.reshape(len(x), -1)))
            x = nn.Dropout(0.75, deterministic=not train)(x)
            return nn.Dense(CLASSES, name="last")(x)

    from sample_networks import variables_of

    from jaxperturb.recovery.passing import with_dropout

    module = Dropping()
    network = jp.Network.from_linen(module, variables_of(module, GREY, train=False), image_shape=GREY)
    check_dropout(network)
    x = jnp.ones((1, *GREY))
    plain_logits = np.asarray(network.apply(network.params, x))
    inside = jax.nn.relu(x.reshape(1, -1) @ network.params["params"]["first"]["kernel"]
                         + network.params["params"]["first"]["bias"])  # fmt: skip
    many = np.stack([with_dropout(network.apply, jp.random.key(i), network.params, x) for i in range(200)])
    assert np.ptp(many, axis=0).min() > 0
    error = np.asarray(inside @ network.params["params"]["last"]["kernel"] ** 2)
    assert np.abs(many.mean(0) - plain_logits).max() < 5 * many.std(0).max() / np.sqrt(200), error
    with pytest.raises(RecoveryError, match="no dropout layer"):
        check_dropout(SAMPLES["linen"]())


@pytest.mark.parametrize(
    "wrong",
    [{"name": "adm"}, {"learning_rate": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"schedule": "step"}],
)
def test_optimisers_that_are_none_are_refused(wrong):
    with pytest.raises(RecoveryError, match="cannot be used: expected"):
        Optimizer(**wrong)


def test_a_schedule_ends_at_nothing():
    update = Optimizer("sgd", 0.1, momentum=0.0, schedule="linear", warmup=2).build(6)
    state, sizes = update.init({"w": jnp.ones(())}), []
    for _ in range(6):
        moved, state = update.update({"w": jnp.ones(())}, state, {"w": jnp.ones(())})
        sizes.append(-float(moved["w"]))
    np.testing.assert_allclose(sizes, [0, 0.05, 0.1, 0.075, 0.05, 0.025], atol=1e-7)
