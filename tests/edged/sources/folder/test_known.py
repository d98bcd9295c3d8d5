import random

from edged.sources.folder.known import KnownFiles


def test_every_state_is_told_from_every_other() -> None:
    known = KnownFiles()
    known.add(b"/in/a\xff.png", 10, 10**18)
    assert (b"/in/a\xff.png", 10, 10**18) in known
    for other in ((b"/in/b.png", 10, 10**18), (b"/in/a\xff.png", 11, 10**18), (b"/in/a\xff.png", 10, 10**18 + 1)):
        assert other not in known


def test_over_many_merges() -> None:
    states = [(b"/in/%d.png" % number, number, 10**18 + number) for number in range(50_000)]
    random.Random(0).shuffle(states)
    known = KnownFiles()
    for state in states:
        known.add(*state)
    assert len(known) == 50_000
    assert all(state in known for state in states)
    assert sum((path, size + 1, mtime) in known for path, size, mtime in states) == 0
