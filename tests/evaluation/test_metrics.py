"""The score of the embedded task."""

import pytest

from cd4lm.data import tiny_task


@pytest.mark.parametrize(
    "response,right",
    [
        ("7 + 3 = 10 . #### 10", True),
        ("#### 9 . so #### 10", True),
        ("####10", True),
        ("#### 11", False),
        ("#### -10", False),
        ("10", False),
        ("", False),
        ("#### ten", False),
    ],
)
def test_tiny_score(response, right):
    assert tiny_task.score({"answer": "7 + 3 = 10 . #### 10"}, response) is right
