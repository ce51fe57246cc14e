"""Answer questions with confidence-adaptive decoding (CAD), or with another policy that adapts to the text.

python scripts/LLaDA_generate_dynamic.py --prompt "tom has 7 apples . buys 3 . gives 2 . how many ?"
python scripts/LLaDA_generate_dynamic.py --model_path /models/LLaDA-8B-Instruct --prompt "..." --factor 1.0
"""

from cd4lm.config import exit_with_message
from cd4lm.decoding.command_line import add_prompts, generate_and_print, parser_of
from cd4lm.decoding.options import DecodingOptions


def main():
    parser = parser_of(__doc__, leave_out=("steps", "remasking", "infill"))
    add_prompts(parser)
    arguments = parser.parse_args()
    generate_and_print(arguments, DecodingOptions.of_arguments(arguments))


if __name__ == "__main__":
    exit_with_message(main)
