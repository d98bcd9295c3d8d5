import pytest

from tests.edged.killing import Kills, Line

ROUNDS = 40


@pytest.mark.timeout(1500)
def test_kills_at_any_time_lose_nothing_and_double_nothing(line: Line) -> None:
    kills = Kills()
    line.kill_rounds(ROUNDS, kills)
    account = line.finish()
    print(kills, account)  # noqa: T201 -- seen with -s
    assert account.problems[:20] == []
    assert (account.lost, account.duplicated, account.misplaced, account.not_in_sinks) == (0, 0, 0, 0)
    assert kills.total == ROUNDS
    assert kills.in_flight >= 0.9 * ROUNDS
