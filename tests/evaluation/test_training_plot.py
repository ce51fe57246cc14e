"""The picture of training logs, from real log files."""

import json

import pytest

from evaluation.training_plot import POINTS, main, thinned

STEPS = 450


def write_log(folder, **values):
    folder.mkdir()
    lines = [{"step": step} | {name: value / step for name, value in values.items()} for step in range(1, STEPS + 1)]
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_the_mean_of_a_curve_stays_where_it_was():
    points = [(float(step), step**0.5) for step in range(1, STEPS + 1)]
    found = thinned(points)
    assert len(found) <= POINTS and thinned(points[:POINTS]) == points[:POINTS]
    assert sum(y for _, y in found) / len(found) == pytest.approx(sum(y for _, y in points) / STEPS)


def test_two_runs_are_drawn_in_one_picture(tmp_path, monkeypatch, capsys):
    runs = [write_log(tmp_path / "a", loss=3.0, consistency=1.0), write_log(tmp_path / "b", loss=2.0)]
    picture = tmp_path / "curves.png"
    monkeypatch.setattr("sys.argv", ["training_plot", *runs, "--output", str(picture)])
    main()
    assert picture.read_bytes().startswith(b"\x89PNG") and str(picture) in capsys.readouterr().out


@pytest.mark.parametrize("name", ["empty", "none"])
def test_a_folder_without_a_curve_is_named(name, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "training_log.jsonl").touch()
    monkeypatch.setattr("sys.argv", ["training_plot", str(tmp_path / name), "--output", str(tmp_path / "x.png")])
    with pytest.raises(ValueError, match="has a step yet" if name == "empty" else "no training_log.jsonl"):
        main()
    assert not (tmp_path / "x.png").exists()
