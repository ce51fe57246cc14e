"""Answer questions with a fixed number of steps (LLaDA's decoder).

python scripts/LLaDA_generate.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?" --steps 40
python scripts/LLaDA_generate.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --steps 256
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.common import add_generation_options, add_prompt_options, generate_and_print
from src.config import exit_with_message
from src.decoding import FixedSteps
from src.decoding.generation_settings import GenerationSettings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_prompt_options(parser)
    add_generation_options(parser)
    parser.add_argument("--steps", type=int, help="steps over the whole answer (default: one token per step)")
    parser.add_argument("--remasking", choices=["low_confidence", "random"], default="low_confidence")
    arguments = parser.parse_args()
    one_each = arguments.gen_length or GenerationSettings.load(arguments.model_path).gen_length
    steps = one_each if arguments.steps is None else arguments.steps
    generate_and_print(arguments, FixedSteps(steps=steps, remasking=arguments.remasking))


if __name__ == "__main__":
    exit_with_message(main)
