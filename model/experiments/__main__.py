"""Command line: `python -m skylight.model.experiments prompts|refinement|agreement --help`."""

import sys

from skylight.model.experiments import mask_prompt_ablation, prompt_benchmark, score_agreement

COMMANDS = {
    "prompts": prompt_benchmark.main,
    "refinement": mask_prompt_ablation.main,
    "agreement": score_agreement.main,
}


def main() -> None:
    """Run the command that the first argument names with the other arguments; SystemExit if it names none."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m skylight.model.experiments {'|'.join(COMMANDS)} [options]")
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()
