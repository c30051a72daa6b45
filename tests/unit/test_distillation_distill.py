"""slimcnn.distillation: `distill` and the teacher's cache."""

import copy

import pytest
import torch
from torch import nn

from slimcnn import distillation as kd
from slimcnn import masking, pruning, training
from slimcnn.data import Augmentation, Split, batches, normalize
from slimcnn.training import Recipe


def split(count=48, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split("toy", images, torch.arange(count) % classes)


def network(channels=4, classes=3, seed=0):
    with training.seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * channels, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(2 * channels, classes),
        )


RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05, average=0.0)
OPTIONS = {"seed": 0, "device": "cpu", "progress": False}


def teacher():
    return network(8, seed=7).eval()


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_it_is_fit_with_the_loss_of_the_teacher():
    """The same weights as `fit` with the objective written out."""
    student, train = network(), split()
    other = teacher().to(memory_format=torch.channels_last)  # as in `fit`: the same rounding

    def objective(model, batch):
        logits = model(batch.images)
        with torch.no_grad():
            answers = other(batch.images)
        return kd.distillation_loss(logits, answers, batch.labels, 2.0, 0.5), logits

    expected, _ = training.fit(student, train, RECIPE, objective=objective, **OPTIONS)
    loss = kd.SoftTargets(temperature=2.0, alpha=0.5)
    found, history = kd.distill(
        student, other, train, RECIPE, loss=loss, validation=train, **OPTIONS
    )
    assert same(expected, found)
    assert not found.training
    assert len(history.validation_accuracy) == 2
    assert type(found) is nn.Sequential and list(found.state_dict()) == list(student.state_dict())


def test_nothing_given_is_changed():
    student, other = network(), teacher()
    hints = kd.Hints([("0", "0")], 1.0)
    before = copy.deepcopy(student), copy.deepcopy(other)
    kd.distill(student, other, split(), RECIPE, features=hints, **OPTIONS)
    assert same(student, before[0]) and same(other, before[1])
    assert student.training and not other.training
    assert all(p.requires_grad and p.grad is None for p in other.parameters())
    assert not list(hints.parameters())


def test_the_student_comes_nearer_to_its_teacher():
    student, other, train = network(), teacher(), split(96)
    recipe = Recipe(epochs=12, batch_size=16, lr=0.1, average=0.0, augmentation=None)
    loss = kd.SoftTargets(temperature=1.0, alpha=1.0)
    found, _ = kd.distill(student, other, train, recipe, loss=loss, **OPTIONS)

    def distance(model):
        answers = training.predict(other, train.images)
        return kd.soft_target_loss(training.predict(model, train.images), answers, 1.0).item()

    assert distance(found) < 0.5 * distance(student)


@pytest.mark.parametrize(
    "features",
    [
        kd.Hints([("3", "3")], 0.5),
        kd.AttentionTransfer([("1", "1"), ("3", "3")], 0.5),
        kd.Relations([("5", "5")], 0.5),
    ],
)
def test_feature_losses_are_added_with_their_weight(features):
    student, other, train = network(), teacher(), split(16)
    recipe = Recipe(epochs=1, batch_size=16, lr=0.05, average=0.0, augmentation=None)
    found, history = kd.distill(student, other, train, recipe, features=features, **OPTIONS)
    # the loss of the only step, by hand: batch order does not matter to a mean
    built = copy.deepcopy(features)
    mine_names, its_names = zip(*features.pairs, strict=True)
    with training.seeded(0):
        student.train()
        images = next(iter(batches(train, 16, seed=0, epoch=0))).images
        probe = normalize(train.images[:2])
    with torch.no_grad():
        student.eval()
        with kd.tapped(student, mine_names) as mine, kd.tapped(other, its_names) as its:
            student(probe), other(probe)
        with training.seeded(0):
            built.build([mine[n] for n in mine_names], [its[n] for n in its_names])
        student.train()
        labels = next(iter(batches(train, 16, seed=0, epoch=0))).labels
        with (
            training.seeded(0, 0),
            kd.tapped(student, mine_names) as mine,
            kd.tapped(other, its_names) as its,
        ):
            logits, answers = student(images), other(images)
        expected = kd.SoftTargets()(logits, answers, labels)
        compared = built([mine[n] for n in mine_names], [its[n] for n in its_names])
    assert history.loss[0] == pytest.approx((expected + 0.5 * compared).item(), rel=1e-4)
    assert compared > 0
    assert list(found.state_dict()) == list(student.state_dict())


def test_a_masked_student_keeps_its_zeros_and_a_schedule_sees_the_student():
    student = network()
    masks = pruning.layerwise_masks(pruning.magnitude(student), 0.5)
    found, _ = kd.distill(
        masking.apply_masks(student, masks), teacher(), split(), RECIPE, **OPTIONS
    )
    assert all(torch.equal(m, masks[n]) for n, m in masking.masks_of(found).items())
    seen = []
    kd.distill(
        student,
        teacher(),
        split(),
        RECIPE,
        before_step=lambda model, batch, step: seen.append((type(model), step)),
        **OPTIONS,
    )
    assert seen == [(nn.Sequential, step) for step in range(6)]


def test_a_killed_run_goes_on(tmp_path):
    student, other, train = network(), teacher(), split()
    whole, _ = kd.distill(
        student, other, train, RECIPE, features=kd.Hints([("3", "3")], 0.5), **OPTIONS
    )

    class Killed(Exception):
        pass

    def kill(model, batch, step):
        if step == 4:
            raise Killed

    state = tmp_path / "state.safetensors"
    hints = kd.Hints([("3", "3")], 0.5)
    with pytest.raises(Killed):
        kd.distill(
            student,
            other,
            train,
            RECIPE,
            features=hints,
            checkpoint=state,
            before_step=kill,
            **OPTIONS,
        )
    resumed, _ = kd.distill(
        student, other, train, RECIPE, features=hints, checkpoint=state, **OPTIONS
    )
    assert same(whole, resumed)


# --- refusals -----------------------------------------------------------------------------------


def test_what_distill_refuses():
    student, train = network(), split()
    with pytest.raises(ValueError, match=r"teacher trains \(the network is in training mode\)"):
        kd.distill(student, network(8), train, RECIPE, **OPTIONS)
    partly = teacher()
    partly[1].train()
    with pytest.raises(ValueError, match=r"teacher trains \(1 is in training mode\)"):
        kd.distill(student, partly, train, RECIPE, **OPTIONS)
    with pytest.raises(ValueError, match="share parameters"):
        kd.distill(student, student.eval(), train, RECIPE, **OPTIONS)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) and the teacher with \(2, 5\)"):
        kd.distill(network(), network(8, classes=5).eval(), train, RECIPE, **OPTIONS)
    with pytest.raises(KeyError, match="no module '9'"):
        kd.distill(
            network(), teacher(), train, RECIPE, features=kd.Hints([("9", "3")], 1.0), **OPTIONS
        )
    with pytest.raises(ValueError, match=r"'5' and '5' have shapes"):
        kd.distill(
            network(), teacher(), train, RECIPE, features=kd.Hints([("5", "5")], 1.0), **OPTIONS
        )
    with pytest.raises(ValueError, match="one of the two"):
        kd.distill(
            network(),
            teacher(),
            train,
            RECIPE,
            features=kd.Hints([("3", "3")], 1.0),
            cache=kd.TeacherCache(),
            **OPTIONS,
        )


# --- the cache ----------------------------------------------------------------------------------


def test_a_cached_teacher_teaches_the_same(tmp_path):
    student, other, train = network(), teacher(), split()
    without, _ = kd.distill(student, other, train, RECIPE, **OPTIONS)
    cache = kd.TeacherCache(tmp_path / "cache" / "teacher.safetensors")
    first, _ = kd.distill(student, other, train, RECIPE, cache=cache, **OPTIONS)
    assert (cache.hits, cache.misses) == (0, 6)  # 2 epochs of 3 batches, all augmented anew
    cache.save()
    again = kd.TeacherCache(cache.path)
    second, _ = kd.distill(student, other, train, RECIPE, cache=again, **OPTIONS)
    assert (again.hits, again.misses) == (6, 0)
    assert same(without, first) and same(without, second)


def test_the_key_is_the_picture_not_its_number():
    other, cache = teacher(), kd.TeacherCache()
    train, augmentation = split(), Augmentation(shift=2)
    for epoch in (0, 1, 0):
        for batch in batches(train, 16, seed=0, epoch=epoch, augmentation=augmentation):
            answers = cache.logits(other, batch.images)
            with torch.no_grad():
                torch.testing.assert_close(answers, other(batch.images))
    assert (cache.hits, cache.misses) == (3, 6)


def test_one_pixel_makes_another_picture_and_layout_does_not():
    other, cache = teacher(), kd.TeacherCache()
    images = torch.randn(2, 1, 8, 8)
    cache.logits(other, images)
    cache.logits(other, images.contiguous(memory_format=torch.channels_last))
    assert (cache.hits, cache.misses) == (1, 1)
    changed = images.clone()
    changed[1, 0, 7, 7] += 1e-3
    cache.logits(other, changed)
    cache.logits(other, images[:1])
    assert (cache.hits, cache.misses) == (1, 3)


def test_answers_carry_no_gradient_and_belong_to_one_teacher(tmp_path):
    other, cache = teacher(), kd.TeacherCache(tmp_path / "c.safetensors")
    assert not cache.logits(other, torch.randn(2, 1, 8, 8)).requires_grad
    with pytest.raises(ValueError, match="another teacher's answers"):
        cache.logits(network(8, seed=8).eval(), torch.randn(2, 1, 8, 8))
    cache.save()
    with pytest.raises(ValueError, match=r"another teacher's answers.*delete .*c\.safetensors"):
        kd.TeacherCache(cache.path).logits(network(8, seed=8).eval(), torch.randn(2, 1, 8, 8))


def test_what_the_cache_refuses(tmp_path):
    with pytest.raises(ValueError, match="the teacher trains"):
        kd.TeacherCache().logits(teacher().train(), torch.randn(2, 1, 8, 8))
    with pytest.raises(ValueError, match="no path or no answers"):
        kd.TeacherCache().save()
    with pytest.raises(ValueError, match="no path or no answers"):
        kd.TeacherCache(tmp_path / "new.safetensors").save()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"bad\.safetensors is no cache"):
        kd.TeacherCache(path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"bad\.safetensors is no cache"):
        kd.TeacherCache(path)
