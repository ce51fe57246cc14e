"""Answer questions with confidence-adaptive decoding (CAD), or with another policy that adapts to the text.

python scripts/LLaDA_generate_dynamic.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?"
python scripts/LLaDA_generate_dynamic.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --factor 1.0
"""

import argparse

from common import (
    add_dynamic_options,
    add_generation_options,
    add_prompt_options,
    generate_and_print,
    policy_of,
)

from cd4lm.config import exit_with_message


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_prompt_options(parser)
    add_generation_options(parser)
    add_dynamic_options(parser)
    arguments = parser.parse_args()
    generate_and_print(arguments, policy_of(arguments))


if __name__ == "__main__":
    exit_with_message(main)
