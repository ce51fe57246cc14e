"""What the task files call: scoring by evaluation/metrics, and the split of MBPP."""

from evaluation.dllm_eval.scoring import Scorer

# lm-eval has asked for the confirmation before it comes here: the programming tasks are marked unsafe_code.
_SCORER = Scorer("default", confirm_run_unsafe_code=True)

gsm8k = _SCORER.process_results("gsm8k")
math500 = _SCORER.process_results("math500")
humaneval = _SCORER.process_results("humaneval")
humaneval_plus = _SCORER.process_results("humaneval_plus")
mbpp = _SCORER.process_results("mbpp")
mbpp_plus = _SCORER.process_results("mbpp_plus")


def mbpp_test_split(docs):
    """The published test items, task_id 11 to 510, of a file or a split that may hold more."""
    return docs.filter(lambda row: 11 <= row["task_id"] <= 510)
