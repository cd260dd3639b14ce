"""Augmentation and mixup: what becomes of an image depends on its number, not on its batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nascale_trainer.progressive.augmentation import augment, mixed, mixed_cross_entropy, mixing_share

MAGNITUDES = st.floats(0.01, 1)


def pictures(count, channels=1, side=8):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, channels, side, side, generator=generator)


def changed(images, begin=0, seed=5, magnitude=1.0, *, flip=False):
    numbers = torch.arange(begin, begin + len(images))
    return augment(images, numbers, seed=seed, magnitude=magnitude, flip=flip)


@pytest.mark.parametrize("flip", [False, True])
def test_no_magnitude_changes_nothing(flip):
    images = pictures(4)
    assert torch.equal(changed(images, magnitude=0, flip=flip), images)


@settings(max_examples=40)
@given(
    magnitude=MAGNITUDES,
    begin=st.integers(0, 2**40),
    channels=st.sampled_from([1, 3]),
    side=st.sampled_from([4, 7, 8, 32]),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    flip=st.booleans(),
)
def test_an_image_is_changed_alike_in_every_batch(*, magnitude, begin, channels, side, sizes, flip):
    images = pictures(sum(sizes), channels, side)
    untouched = images.clone()
    whole = changed(images, begin, magnitude=magnitude, flip=flip)
    assert torch.equal(images, untouched)
    assert whole.shape == images.shape
    assert bool(whole.isfinite().all())
    position = 0
    for size in sizes:
        part = changed(images[position : position + size], begin + position, magnitude=magnitude, flip=flip)
        assert torch.equal(part, whole[position : position + size])
        position += size


def test_seed_and_number_decide():
    images = pictures(1).repeat(64, 1, 1, 1)
    result = changed(images)
    assert len(torch.unique(result.flatten(1), dim=0)) == 64
    assert not torch.equal(result, changed(images, seed=6))


def test_the_change_grows_with_the_magnitude():
    images = pictures(200, 3, 16)
    distances = [float((changed(images, magnitude=m) - images).square().mean()) for m in (0.05, 0.2, 0.5, 1)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[-1]


def test_every_second_image_is_mirrored_where_the_data_allow_it():
    """At a tiny magnitude the mirror is all that is seen."""
    images = pictures(400)
    result = changed(images, magnitude=1e-5, flip=True)
    mirrored = [
        torch.allclose(one, other.flip(-1), atol=1e-3) for one, other in zip(result, images, strict=True)
    ]
    same = [torch.allclose(one, other, atol=1e-3) for one, other in zip(result, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 150 < sum(mirrored) < 250
    assert torch.allclose(changed(images, magnitude=1e-5), images, atol=1e-3)


def test_an_even_image_shows_colour_and_rectangle_alone():
    """No movement changes an image of one colour, so that what erasing and colour did can be read off."""
    images = torch.full((4000, 1, 32, 32), 2.0)
    result = changed(images)
    erased = (result == 0).flatten(1).float().mean(dim=1)
    assert 0.45 < float((erased > 0).float().mean()) < 0.55
    assert float(erased.max()) <= 0.40
    spread = result.amax(dim=(1, 2, 3)) - result.amin(dim=(1, 2, 3))
    assert float(spread[erased == 0].max()) < 1e-5
    colours = result.amax(dim=(1, 2, 3))
    assert 2 * 0.6 - 0.4 <= float(colours.min()) < 1.2
    assert 2.8 < float(colours.max()) <= 2 * 1.4 + 0.4


def test_a_point_stays_near_and_its_moves_have_no_preferred_direction():
    side = 33
    images = torch.zeros(3000, 1, side, side)
    images[:, :, side // 2, side // 2] = 1
    result = changed(images).clamp_min(0)
    weights = result * (result > 0.2)
    seen = weights.sum(dim=(1, 2, 3)) > 0
    places = torch.arange(side) - side // 2
    x = (weights.sum(dim=(1, 2)) * places).sum(dim=1)[seen] / weights.sum(dim=(1, 2, 3))[seen]
    y = (weights.sum(dim=(1, 3)) * places).sum(dim=1)[seen] / weights.sum(dim=(1, 2, 3))[seen]
    inside = torch.stack((x, y))[:, (x.abs() < 10) & (y.abs() < 10)]
    assert inside.shape[1] > 1000
    assert float(inside.mean(dim=1).abs().max()) < 0.5
    assert float(inside.std(dim=1).min()) > 1


@given(
    classes=st.integers(2, 6),
    count=st.integers(1, 7),
    share=st.floats(0, 1),
    smoothing=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
def test_the_mixed_loss_is_that_of_mixed_and_smoothed_targets(classes, count, share, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    expected = 0.0
    for position in range(count):
        exponents = [math.exp(value) for value in logits[position].tolist()]
        target = [smoothing / classes] * classes
        target[int(labels[position])] += (1 - smoothing) * share
        target[int(labels[position - 1])] += (1 - smoothing) * (1 - share)
        expected -= sum(
            probability * math.log(each / sum(exponents))
            for probability, each in zip(target, exponents, strict=True)
        )
    found = mixed_cross_entropy(logits, labels, share, smoothing)
    assert float(found) == pytest.approx(expected / count, rel=1e-9, abs=1e-12)


def test_images_are_mixed_with_the_neighbours_that_the_loss_takes():
    images = torch.arange(4.0).view(4, 1, 1, 1)
    assert mixed(images, 0.75).flatten().tolist() == [0.75, 0.75, 1.75, 2.75]
    assert torch.equal(mixed(images, 1), images)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares = torch.tensor([mixing_share(9, number, alpha) for number in range(4000)], dtype=torch.float64)
    assert bool(((shares >= 0) & (shares <= 1)).all())
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    assert mixing_share(9, 17, alpha) == float(shares[17]) != mixing_share(8, 17, alpha)
