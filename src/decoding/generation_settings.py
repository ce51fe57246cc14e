"""How a checkpoint wants to be decoded, kept in its generation_config.json and used by every entry point."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class GenerationSettings:
    """Answer canvas and block in tokens, and CAD's threshold; the defaults are the published ones for GSM8K."""

    gen_length: int = 256
    block_length: int = 32
    confidence_threshold: float = 0.95

    @classmethod
    def load(cls, folder: str | Path) -> "GenerationSettings":
        """Read a checkpoint's settings; what its generation_config.json does not say keeps the default."""
        file = Path(folder) / "generation_config.json"
        stored = json.loads(file.read_text()) if file.is_file() else {}
        return cls(**{field.name: stored[field.name] for field in fields(cls) if field.name in stored})

    def save(self, folder: str | Path) -> None:
        """Write the settings beside whatever else the checkpoint's generation_config.json holds."""
        file = Path(folder) / "generation_config.json"
        stored = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(stored | asdict(self), indent=2) + "\n")
