"""Answer questions with confidence-adaptive decoding (CAD).

python scripts/LLaDA_generate_dynamic.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?"
python scripts/LLaDA_generate_dynamic.py --model_path /models/LLaDA-8B-Instruct --prompt "..."
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.common import (
    add_dynamic_options,
    add_generation_options,
    add_prompt_options,
    generate_and_print,
    threshold_of,
)
from src.config import exit_with_message
from src.decoding import ConfidenceAdaptive


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_prompt_options(parser)
    add_generation_options(parser)
    add_dynamic_options(parser)
    arguments = parser.parse_args()
    policy = ConfidenceAdaptive(
        threshold=threshold_of(arguments),
        min_tokens=arguments.min_tokens_per_step,
        max_tokens=arguments.max_tokens_per_step,
        max_steps_per_block=arguments.max_steps_per_block,
    )
    generate_and_print(arguments, policy)


if __name__ == "__main__":
    exit_with_message(main)
