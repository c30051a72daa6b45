"""Every rule on every lesson; nothing is executed here."""

import pytest

import lesson
import lesson_rules
import repository

LESSONS = lesson.sources([lesson.ROOT / "chapters"])


@pytest.fixture(params=LESSONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def item(request):
    return lesson_rules.load(request.param)


@pytest.mark.parametrize("rule", lesson_rules.RULES, ids=lambda rule: rule.__name__)
def test_lesson_keeps(rule, item):
    assert not list(rule(item))


def test_every_page_has_the_books_address_and_version():
    assert repository.disagreements() == []
