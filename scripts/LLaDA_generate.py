"""Answer questions with a fixed number of steps (LLaDA's decoder).

python scripts/LLaDA_generate.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?"
python scripts/LLaDA_generate.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --steps 256
"""

from dataclasses import replace

from cd4lm.config import exit_with_message
from cd4lm.decoding.command_line import add_prompts, generate_and_print, parser_of
from cd4lm.decoding.options import POLICIES, DecodingOptions

OF_OTHERS = [option for name, entry in POLICIES.items() if name != "fixed" for option in (entry.option, *entry.others)]


def main():
    parser = parser_of(__doc__, leave_out=("policy", "infill", *OF_OTHERS))
    add_prompts(parser)
    arguments = parser.parse_args()
    generate_and_print(arguments, replace(DecodingOptions.of_arguments(arguments), policy="fixed"))


if __name__ == "__main__":
    exit_with_message(main)
