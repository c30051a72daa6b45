"""Solutions of the assignment on distillation, wrong and right."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from slimcnn import checkpoints, data, distillation, metrics, pruning, report, training
from slimcnn.training import Recipe


def _parts(z_s, z_t, temperature, share):
    p_s, p_t = (z_s / temperature).softmax(1), (z_t / temperature).softmax(1)
    return p_s, p_t, share * p_t + (1 - share) * p_s


def _kl(p, q):
    return torch.where(p > 0, p * (p.clamp(min=1e-300) / q.clamp(min=1e-300)).log(), 0.0).sum(1)


def js_without_square(z_s, z_t, temperature, share):
    """No T²."""
    return js_by_probabilities(z_s, z_t, temperature, share) / temperature**2


def js_by_elements(z_s, z_t, temperature, share):
    """The mean over images and classes."""
    return js_by_probabilities(z_s, z_t, temperature, share) / z_s.shape[1]


def js_summed(z_s, z_t, temperature, share):
    """The sum over the images."""
    return js_by_probabilities(z_s, z_t, temperature, share) * len(z_s)


def js_swapped(z_s, z_t, temperature, share):
    """The share is given to the student."""
    return js_by_probabilities(z_s, z_t, temperature, 1 - share)


def js_of_mixed_logits(z_s, z_t, temperature, share):
    """Mixes logits."""
    p_s, p_t, _ = _parts(z_s, z_t, temperature, share)
    m = ((share * z_t + (1 - share) * z_s) / temperature).softmax(1)
    return temperature**2 * (share * _kl(p_t, m) + (1 - share) * _kl(p_s, m)).mean()


def js_with_constant_student(z_s, z_t, temperature, share):
    """The student's probabilities that weigh its logarithms are taken for constants."""
    p_s, p_t, m = _parts(z_s, z_t, temperature, share)
    backward = (p_s.detach() * (p_s / m).log()).sum(1)
    return temperature**2 * (share * _kl(p_t, m) + (1 - share) * backward).mean()


def js_with_zero_times_log(z_s, z_t, temperature, share):
    """Logarithms of probabilities that are zero."""
    p_s, p_t, m = _parts(z_s, z_t, temperature, share)
    parts = share * p_t * (p_t / m).log() + (1 - share) * p_s * (p_s / m).log()
    return temperature**2 * parts.sum(1).mean()


def js_as_number(z_s, z_t, temperature, share):
    """A float has no gradient."""
    return js_by_probabilities(z_s, z_t, temperature, share).item()


def js_from_the_package(z_s, z_t, temperature, share):
    """Lets the package do the work."""
    m = _parts(z_s, z_t, temperature, share)[2].log()
    forward = distillation.soft_target_loss(m, z_t / temperature, 1.0)
    backward = distillation.soft_target_loss(m, z_s.detach() / temperature, 1.0)
    return temperature**2 * (share * forward + (1 - share) * backward)


def js_by_probabilities(z_s, z_t, temperature, share):
    """Written with probabilities, zeros left out."""
    p_s, p_t, m = _parts(z_s, z_t, temperature, share)
    return temperature**2 * (share * _kl(p_t, m) + (1 - share) * _kl(p_s, m)).mean()


def js_with_constant_mixture(z_s, z_t, temperature, share):
    """Right, since a mixture is the best answer to itself: its own gradient is zero."""
    p_s, p_t, m = _parts(z_s, z_t, temperature, share)
    m = m.detach()
    return temperature**2 * (share * _kl(p_t, m) + (1 - share) * _kl(p_s, m)).mean()


def js_by_loops(z_s, z_t, temperature, share):
    """One image at a time, by `F.kl_div`."""
    total = 0.0
    for a, b in zip(z_s, z_t, strict=True):
        log_s, log_t = F.log_softmax(a / temperature, 0), F.log_softmax(b / temperature, 0)
        log_m = torch.logaddexp(log_t + math.log(share), log_s + math.log(1 - share))
        total = total + share * F.kl_div(log_m, log_t, reduction="sum", log_target=True)
        total = total + (1 - share) * F.kl_div(log_m, log_s, reduction="sum", log_target=True)
    return temperature**2 * total / len(z_s)


def raw_similarities(e_s, e_t):
    """No length is made one."""
    return (e_s @ e_s.T - e_t @ e_t.T).square().mean()


def one_length(e_s, e_t):
    """One length for the whole table."""
    s, t = e_s @ e_s.T, e_t @ e_t.T
    return (s / s.norm() - t / t.norm()).square().mean()


def cosines(e_s, e_t):
    """Embeddings of length one, instead of rows of the table."""
    s, t = F.normalize(e_s), F.normalize(e_t)
    return (s @ s.T - t @ t.T).square().mean()


def mean_of_rows(e_s, e_t):
    """Divided by B instead of B²."""
    return similarity_by_mse(e_s, e_t) * len(e_s)


def constant_length(e_s, e_t):
    """The student's lengths are taken for constants."""
    s, t = e_s @ e_s.T, e_t @ e_t.T
    s = s / s.norm(dim=1, keepdim=True).detach()
    return (s - F.normalize(t)).square().mean()


def similarity_by_mse(e_s, e_t):
    """By `F.mse_loss` and a norm."""
    s, t = ((e @ e.T) / (e @ e.T).norm(dim=1, keepdim=True) for e in (e_s, e_t))
    return F.mse_loss(s, t)


def similarity_by_loops(e_s, e_t):
    """Entry by entry."""
    total = 0.0
    for i in range(len(e_s)):
        rows = [torch.stack([(e[i] * e[j]).sum() for j in range(len(e))]) for e in (e_s, e_t)]
        s, t = (row / row.square().sum().sqrt() for row in rows)
        total = total + (s - t).square().sum()
    return total / len(e_s) ** 2


def _pictures(size=6_000):
    train = data.load("train").subset(size)
    return data.Split("pictures", train.images, torch.zeros_like(train.labels))


def _thinner(width):
    student = checkpoints.load("student")
    groups = pruning.find_groups(student, (1, 1, 28, 28))
    scores = pruning.group_scores(groups, pruning.filter_l1(student))
    keep = pruning.keep_best(groups, scores, {g.name: round(width * g.size) for g in groups})
    return pruning.recalibrate(pruning.shrink(student, groups, keep), _pictures(1000).images)


def untaught(path):
    """The pruned student as it is."""
    checkpoints.save_weights(_thinner(0.5), path)


def whole_student(path):
    """The student without any pruning."""
    checkpoints.save_weights(checkpoints.load("student"), path)


def taught_by_zeros(path):
    """Trains on the zeros that stand for labels."""
    recipe = Recipe(epochs=1, batch_size=128, lr=0.02, average=0.0, augmentation=None)
    taught, _ = training.fit(_thinner(0.5), _pictures(3_000), recipe, seed=0, progress=False)
    checkpoints.save_weights(taught, path)


def nothing_written(path):
    """Forgets to save."""


def taught_by_package(path):
    """The package's `distill`, with its cache."""
    recipe = Recipe(epochs=4, batch_size=128, lr=0.02, average=0.0, augmentation=None)
    taught, _ = distillation.distill(
        _thinner(0.5),
        checkpoints.load("resnet14-unsmoothed"),
        _pictures(),
        recipe,
        seed=1,
        loss=distillation.SoftTargets(temperature=2.0, alpha=1.0),
        cache=distillation.TeacherCache(),
        progress=False,
    )
    checkpoints.save_weights(taught, path)


def taught_by_logits(path):
    """Squared differences of logits, a loop of one's own."""
    teacher, student, pictures = (
        checkpoints.load("resnet14-unsmoothed"),
        _thinner(0.5).train(),
        _pictures(),
    )
    answers = training.predict(teacher, pictures.images)
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * 94)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for chosen in torch.randperm(6_000, generator=generator).split(64):
            optimizer.zero_grad()
            logits = student(data.normalize(pictures.images[chosen]))
            (logits - answers[chosen]).square().mean().backward()
            optimizer.step()
            schedule.step()
    checkpoints.save_weights(student.eval(), path)


def _mended(student, teacher, images, labels, temperature, alpha, reduction="batchmean"):
    teacher.eval()
    with torch.no_grad():
        z_t = teacher(images)
    z_s = student(images)
    soft = F.kl_div(
        (z_s / temperature).log_softmax(1), (z_t / temperature).softmax(1), reduction=reduction
    )
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(z_s, labels)


def objective_in_training_mode(student, teacher, images, labels, temperature, alpha):
    """The teacher answers in training mode."""
    z_t = teacher(images).detach()
    soft = F.kl_div(
        (student(images) / temperature).log_softmax(1),
        (z_t / temperature).softmax(1),
        reduction="batchmean",
    )
    hard = F.cross_entropy(student(images), labels)
    return alpha * temperature**2 * soft + (1 - alpha) * hard


def objective_teaching_the_teacher(student, teacher, images, labels, temperature, alpha):
    """Gradients flow into the teacher."""
    z_t, z_s = teacher.eval()(images), student(images)
    soft = F.kl_div(
        (z_s / temperature).log_softmax(1), (z_t / temperature).softmax(1), reduction="batchmean"
    )
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(z_s, labels)


def objective_by_elements(student, teacher, images, labels, temperature, alpha):
    """`reduction="mean"`."""
    return _mended(student, teacher, images, labels, temperature, alpha, "mean")


def objective_without_square(student, teacher, images, labels, temperature, alpha):
    """No T²."""
    soft = _mended(student, teacher, images, labels, temperature, 1.0) / temperature**2
    hard = _mended(student, teacher, images, labels, temperature, 0.0)
    return alpha * soft + (1 - alpha) * hard


def objective_with_the_teacher_twice(student, teacher, images, labels, temperature, alpha):
    """The teacher is compared with itself."""
    soft = _mended(teacher, teacher, images, labels, temperature, 1.0).detach()
    hard = _mended(student, teacher, images, labels, temperature, 0.0)
    return alpha * soft + (1 - alpha) * hard


def objective_with_relu(student, teacher, images, labels, temperature, alpha):
    """A ReLU on the student's logits."""
    return _mended(lambda x: student(x).relu(), teacher, images, labels, temperature, alpha)


def objective_by_kl_div(student, teacher, images, labels, temperature, alpha):
    """By `F.kl_div`."""
    return _mended(student, teacher, images, labels, temperature, alpha)


def objective_by_cross_entropy(student, teacher, images, labels, temperature, alpha):
    """By cross-entropies, the teacher's entropy taken off, and its mode put back."""
    mode = teacher.training
    z_t = teacher.eval()(images).detach()
    teacher.train(mode)
    z_s, p_t = student(images), (z_t / temperature).softmax(1)
    soft = F.cross_entropy(z_s / temperature, p_t) - torch.special.entr(p_t).sum(1).mean()
    labelled = F.one_hot(labels, z_s.shape[1]).to(z_s.dtype)
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(z_s, labelled)


COMPARISONS = [
    ["soft targets", "alone"],
    ["soft targets", "twice as long"],
    ["attention", "soft targets"],
    ["wide teacher", "soft targets"],
]


def _right(name):
    return report.load_predictions("distillation", name) == data.load("test").labels


def _judged(compare):
    found = [compare(_right(new), _right(old)) for new, old in COMPARISONS]
    return [(d, "better" if low > 0 else "worse" if high < 0 else "open") for d, low, high in found]


def _interval(new, old, seeds):
    found = metrics.paired_bootstrap(old[:seeds], new[:seeds])
    return found.difference, found.low, found.high


def means_of_all_seeds():
    """Compares means over different seeds."""
    verdicts = [verdict for _, verdict in intervals_over_both()]
    means = [
        100 * (_right(n).double().mean() - _right(o).double().mean()).item() for n, o in COMPARISONS
    ]
    return [(round(d, 2), v) for d, v in zip(means, verdicts, strict=True)]


def first_seed_only():
    """One seed where there are three."""
    return _judged(lambda new, old: _interval(new, old, 1))


def higher_is_better():
    """No interval."""
    return [(d, "better" if d > 0 else "worse") for d, _ in intervals_over_both()]


def control_minus_variant():
    """The wrong way round."""
    return [(-d, verdict) for d, verdict in intervals_over_both()]


def shares():
    """Not in points."""
    return [(d / 100, verdict) for d, verdict in intervals_over_both()]


def words():
    """Other words than those that were asked for."""
    return [(d, "yes") for d, _ in intervals_over_both()]


def three_rows():
    """A row is missing."""
    return intervals_over_both()[:3]


def intervals_over_both():
    """Over the seeds that both have."""
    return _judged(lambda new, old: _interval(new, old, min(len(new), len(old))))


def typed():
    """Read off, and typed in."""
    return [[0.58, "better"], [-0.26, "open"], [-0.18, "open"], [-0.44, "worse"]]


def objective_waking_the_teacher(student, teacher, images, labels, temperature, alpha):
    """Afterwards the teacher is in training mode, whatever it was before."""
    loss = _mended(student, teacher, images, labels, temperature, alpha)
    teacher.train()
    return loss


def objective_asking_twice(student, teacher, images, labels, temperature, alpha):
    """The student's batch norm sees each batch twice."""
    student(images)
    return _mended(student, teacher, images, labels, temperature, alpha)


def numpy_numbers():
    return [(np.float64(points), verdict) for points, verdict in typed()]


WRONG = {
    "js_loss": [
        (js_without_square, "T² is missing"),
        (js_by_elements, "number of classes"),
        (js_summed, "sum over the images"),
        (js_swapped, "changed places"),
        (js_of_mixed_logits, "mixed the logits"),
        (js_with_constant_student, "detached"),
        (js_with_zero_times_log, "not a number"),
        (js_as_number, "no gradient"),
        (js_from_the_package, "calls soft_target_loss"),
    ],
    "similarity_loss": [
        (raw_similarities, "not of length one"),
        (one_length, "its own length"),
        (cosines, "not the embeddings"),
        (mean_of_rows, "divided by B²"),
        (constant_length, "gradient is not"),
    ],
    "teach": [
        (untaught, "% on validation"),
        (whole_student, "kB; at most"),
        (taught_by_zeros, "class 0"),
        (nothing_written, "no file"),
    ],
    "judge": [
        (means_of_all_seeds, "another difference"),
        (first_seed_only, "another difference"),
        (higher_is_better, "another verdict"),
        (control_minus_variant, "another difference"),
        (shares, "another difference"),
        (words, "the verdict is"),
        (three_rows, "a list of 4 pairs"),
    ],
    "objective": [
        (objective_in_training_mode, "other statistics"),
        (objective_teaching_the_teacher, "teacher's weights"),
        (objective_by_elements, "times as long as right"),
        (objective_without_square, "times as long as right"),
        (objective_with_the_teacher_twice, "no gradient at all"),
        (objective_with_relu, ""),
        (objective_waking_the_teacher, "came in evaluation mode"),
        (objective_asking_twice, "ask it once"),
    ],
}

RIGHT = {
    "js_loss": [js_by_probabilities, js_with_constant_mixture, js_by_loops],
    "similarity_loss": [similarity_by_mse, similarity_by_loops],
    "teach": [taught_by_package, taught_by_logits],
    "judge": [intervals_over_both, typed, numpy_numbers],
    "objective": [objective_by_kl_div, objective_by_cross_entropy],
}
