"""Answer questions with a fixed number of steps (LLaDA's decoder).

python scripts/LLaDA_generate.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?" --steps 40
python scripts/LLaDA_generate.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --steps 256
"""

import argparse

from common import add_generation_options, add_prompt_options, generate_and_print, policy_of

from cd4lm.config import exit_with_message


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_prompt_options(parser)
    add_generation_options(parser)
    parser.add_argument("--steps", type=int, help="steps over the whole answer (default: one token per step)")
    parser.add_argument("--remasking", choices=["low_confidence", "random"], help="default low_confidence")
    arguments = parser.parse_args()
    arguments.policy = "fixed"
    generate_and_print(arguments, policy_of(arguments))


if __name__ == "__main__":
    exit_with_message(main)
