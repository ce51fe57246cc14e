"""The search for a policy's parameter, on curves whose answer is known."""

import pytest

from cd4lm.data import tiny_task
from cd4lm.data.rows import write_jsonl
from cd4lm.decoding import DecodeConfig
from cd4lm.decoding.options import POLICIES, DecodingOptions
from evaluation.measure import scorer
from evaluation.tuning import LADDERS, Trial, best, bisect, grid, ladder, read_problems

CONFIG = DecodeConfig(mask_id=3, gen_length=40, block_length=20)


def curve(threshold_of_enough: float):
    """An attempt at a value: right often enough from that value on, and slower the larger the value."""
    return lambda value: Trial(value, None, {"nfe": value}, value >= threshold_of_enough)


class TestSearch:
    @pytest.mark.parametrize("length", range(1, 16))
    def test_bisection_finds_what_the_grid_finds_in_fewer_trials(self, length):
        values = tuple(range(length))
        for enough in range(length + 1):
            found, all_of_them = bisect(values, curve(enough)), grid(values, curve(enough))
            assert len(found) <= length.bit_length()
            assert best(found) == best(all_of_them)
            assert (best(found) is None) == (enough == length)

    def test_the_grid_takes_the_fastest_even_where_accuracy_is_not_monotone(self):
        trials = grid((1, 2, 3, 4), lambda value: Trial(value, None, {"nfe": value}, value in (2, 4)))
        assert best(trials).value == 2


class TestLadders:
    @pytest.mark.parametrize("name", POLICIES)
    def test_every_policy_has_one_it_accepts(self, name):
        values = ladder(name, CONFIG, None)
        assert len(values) == len(set(values)) > 3
        for value in values:
            options = DecodingOptions(policy=name, **{POLICIES[name].option: value})
            options.make_policy(DecodingOptions(), 40).check(CONFIG)

    def test_the_loosest_comes_first(self):
        rising = [(name, False) for name in ("cad", "entropy")]
        for name, falling in [*rising, ("factor", True), ("entropy_bounded", True), ("multi_block", True)]:
            assert list(LADDERS[name]) == sorted(LADDERS[name], reverse=falling)
        assert ladder("fixed", CONFIG, None) == (2, 4, 8, 10, 20, 40)

    def test_values_of_the_command_line(self):
        assert ladder("cad", CONFIG, "0.5,0.9") == (0.5, 0.9)
        assert ladder("budget", CONFIG, "4,2") == (4, 2)
        with pytest.raises(ValueError, match="is not a list like"):
            ladder("cad", CONFIG, "0.5;0.9")


class TestProblems:
    ROWS = [{"question": f"{i} ?", "answer": "#### 1"} for i in range(4)]

    def test_a_folder_means_its_validation_split(self, tmp_path):
        write_jsonl(tmp_path / "validation.jsonl", self.ROWS)
        assert read_problems(tmp_path, 3, False) == (tmp_path / "validation.jsonl", self.ROWS[:3])

    @pytest.mark.parametrize("name", ["test.jsonl", "gsm8k-Test.jsonl", "humaneval_test_2.jsonl"])
    def test_a_test_split_is_refused_unless_forced(self, tmp_path, name):
        write_jsonl(tmp_path / name, self.ROWS)
        (tmp_path / "validation.jsonl").symlink_to(tmp_path / name)  # another name for it does not help
        for path in (tmp_path / name, tmp_path):
            with pytest.raises(ValueError, match="is a test split"):
                read_problems(path, None, False)
            assert read_problems(path, None, True)[1] == self.ROWS

    @pytest.mark.parametrize("name", ["latest.jsonl", "contest.jsonl"])
    def test_a_name_that_only_contains_the_word_is_not(self, tmp_path, name):
        write_jsonl(tmp_path / name, self.ROWS)
        assert read_problems(tmp_path / name, None, False)[1] == self.ROWS

    def test_bad_files(self, tmp_path):
        with pytest.raises(ValueError, match="does not exist: pass a folder"):
            read_problems(tmp_path, None, False)
        write_jsonl(tmp_path / "validation.jsonl", [])
        with pytest.raises(ValueError, match="holds no problems"):
            read_problems(tmp_path, None, False)
        write_jsonl(tmp_path / "validation.jsonl", [*self.ROWS, {"input": "x"}])
        with pytest.raises(ValueError, match="row 5 has no text in column 'question'"):
            read_problems(tmp_path, None, False)


def test_metrics_by_name():
    assert scorer("tiny") is tiny_task.score
    with pytest.raises(ValueError, match="metric 'tinny' is unknown: did you mean tiny"):
        scorer("tinny")
    with pytest.raises(ValueError, match="metric 'statistics' is unknown"):
        scorer("statistics")
