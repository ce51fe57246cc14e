"""How a checkpoint wants to be decoded, kept in its generation_config.json and used by every entry point."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cd4lm.decoding.policy_options import PolicyOptions

FILE = "generation_config.json"


def _stored(folder: str | Path) -> dict:
    """What the file holds; nothing where there is none. Raises ValueError if it is damaged."""
    file = Path(folder) / FILE
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON ({error.msg}): repair or delete it") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{file} is not a JSON object: repair or delete it")
    return stored


@dataclass(frozen=True)
class GenerationSettings(PolicyOptions):
    """Answer canvas and block in tokens, and the policy; the defaults are the published ones for GSM8K.

    The file stays flat: transformers' GenerationConfig reads it, and keeps our names as attributes.
    """

    policy: str = "cad"
    confidence_threshold: float = 0.95
    gen_length: int = 256
    block_length: int = 32

    @classmethod
    def load(cls, folder: str | Path) -> "GenerationSettings":
        """Read a checkpoint's settings; what its generation_config.json does not say keeps the default."""
        stored = _stored(folder)
        try:
            return cls(**{field.name: stored[field.name] for field in fields(cls) if field.name in stored})
        except ValueError as error:
            raise ValueError(f"{Path(folder) / FILE}: {error}") from error

    def canvas(self, gen_length: int | None, block_length: int | None) -> dict[str, int]:
        """The two lengths as given, the checkpoint's where None is."""
        given = {"gen_length": gen_length, "block_length": block_length}
        return {name: vars(self)[name] if value is None else value for name, value in given.items()}

    def save(self, folder: str | Path) -> None:
        """Write the settings beside whatever else the checkpoint's generation_config.json holds, all or nothing."""
        ours = asdict(self)
        others = {name: value for name, value in _stored(folder).items() if name not in ours}
        said = {name: value for name, value in ours.items() if value is not None}
        partial = Path(folder) / (FILE + ".partial")
        partial.write_text(json.dumps(others | said, indent=2) + "\n")
        partial.replace(Path(folder) / FILE)
