"""The log of finished requests: one line each, on disk before the next, so that a killed run repeats none of them."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

Key = tuple[str, int, int, int]  # task, doc_id, index of the request within the document, repeat


@dataclass(frozen=True)
class Cost:
    """What a response took: forward passes, tokens before the first EOS, seconds from entering the batch to leaving it.

    truncated: no EOS within the canvas. clock: decoding seconds of process `rank` on this task so far, in its run
    number `session` into the output folder.
    """

    nfe: int = 0
    tokens: int = 0
    seconds: float = 0.0
    truncated: bool = False
    clock: float = 0.0
    session: int = 1
    rank: int = 0


class Response(str):
    """A generated text that carries its cost through lm-eval's filters to process_results."""

    def __new__(cls, text: str, cost: Cost | None = None):
        self = super().__new__(cls, text)
        self.cost = cost
        return self


Answer = Response | tuple[float, bool]  # a text, or a log-likelihood and whether greedy decoding gives the same text


class AnswerLog:
    """Answers of all earlier runs into this folder, and the file to which this process appends its own.

    Every process writes answers.<rank>.jsonl and reads them all. A torn last line, left by a kill, is dropped and its
    request done again; any other line that cannot be read is an error that names it.
    """

    def __init__(self, folder: Path, rank: int):
        self.answers: dict[Key, tuple[str, Answer]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"answers.{rank}.jsonl"
        self.file = open(own, "a+b")  # noqa: SIM115 (open as long as the process runs: it also holds the lock)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing to {own}: wait for it or choose another --output_path") from None
        drop_torn_line(self.file)
        for path in sorted(folder.glob("answers.*.jsonl")):
            self.read(path)
        self.resumed = len(self.answers)
        sessions = [answer.cost.session for _, answer in self.answers.values() if isinstance(answer, Response)]
        self.session = 1 + max(sessions, default=0)

    def read(self, path: Path) -> None:
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):  # another process's torn line
                return
            try:
                entry = json.loads(line)
                self.answers[tuple(entry["key"])] = (entry["request"], parse(entry))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} line {number} cannot be read ({error}): remove that line") from error

    def get(self, key: Key, request: str) -> Answer | None:
        """The stored answer of a request. Raises ValueError if it was given for another prompt.

        The row's gold answer may have been repaired since: it plays no part in decoding and is read again to score.
        """
        if key not in self.answers:
            return None
        stored, answer = self.answers[key]
        if stored != request:
            task, doc_id, *_ = key
            raise ValueError(
                f"the stored answer to {task} document {doc_id} belongs to another prompt (data, template or code changed): "
                "choose another --output_path"
            )
        return answer

    def put(self, key: Key, request: str, answer: Answer) -> None:
        """Append an answer and wait until it is on disk."""
        is_text = isinstance(answer, Response)
        said = {"text": answer, "cost": asdict(answer.cost)} if is_text else {"log_likelihood": answer}
        line = json.dumps({"key": key, "request": request} | said, ensure_ascii=False) + "\n"
        self.file.write(line.encode())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.answers[key] = (request, answer)


def parse(entry: dict) -> Answer:
    """The answer of one line. Raises KeyError and TypeError where its fields are not those of an answer."""
    if "text" in entry:
        return Response(entry["text"], Cost(**entry["cost"]))
    value, greedy = entry["log_likelihood"]
    return value, greedy


def drop_torn_line(file) -> None:
    """Cut a file, open for reading and writing, after its last line break; a whole one is not touched."""
    file.seek(0)
    data = file.read()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        file.truncate(whole)
    file.seek(0, os.SEEK_END)
