"""The example of a new token on a tiny model: what it changes, and that it takes it back."""

from __future__ import annotations

from examples import new_token


def test_it_changes_rows_of_the_embedding_alone_and_takes_them_back(tiny_base, capsys):
    patch = new_token.main(str(tiny_base), steps=2)
    assert set(patch.pools) == {new_token.TABLE}
    assert 1 <= patch.rows <= 2  # one a step, as the budget is
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told[1:3]] == ["before", "after"]
    assert told[-1] == "taken back, every bit as before: True"
